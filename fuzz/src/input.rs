//! Takes an input apart: numbers, pieces with a length before them, messages one after another.

use prost::Message;

/// What is left of an input. Past its end there are only zeros, so that every input is one.
#[derive(Debug)]
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// All of `data`.
    #[must_use]
    pub fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    /// `N` bytes.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let taken = self.take(N);
        let mut array = [0; N];
        array[..taken.len()].copy_from_slice(taken);
        array
    }

    /// A number of two bytes.
    pub fn number(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    /// At most `length` bytes.
    pub fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A piece with its length before it, in two bytes.
    pub fn piece(&mut self) -> &'a [u8] {
        let length = self.number();
        self.take(length.into())
    }

    /// A piece as text; empty when it is none.
    pub fn text(&mut self) -> &'a str {
        std::str::from_utf8(self.piece()).unwrap_or_default()
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// The messages that are left, each with its length before it; ends where they make no sense.
    pub fn messages<M: Message + Default>(&mut self) -> Vec<M> {
        let mut rest = self.rest();
        std::iter::from_fn(|| (!rest.is_empty()).then(|| M::decode_length_delimited(&mut rest).ok()).flatten())
            .collect()
    }
}

/// The reverse of [`Input::piece`], for seeds.
#[must_use]
pub fn piece(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("a seed's piece is short");
    [&length.to_be_bytes(), bytes].concat()
}
