//! One call of gRPC whose messages go both ways (gRPC over HTTP2, its document PROTOCOL-HTTP2).

use std::pin::Pin;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use fairway_core::reason::Reason;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt;
use prost::Message;
use tokio::sync::mpsc;

use crate::call::{CallError, PREFIX, framed};
use crate::config::Config;
use crate::failure::Failure;
use crate::forward::{self, Opened, Outgoing};
use crate::grpc;
use crate::replay::Replay;
use crate::stream::Connection;

/// One call. When it is dropped it ends.
pub struct Conversation {
    feed: mpsc::Sender<Bytes>,
    state: State,
    buffer: BytesMut,
    /// Bytes of a message.
    most: usize,
}

enum State {
    Opening(Pin<Box<dyn Future<Output = Result<Opened, Failure>> + Send>>),
    Open(Box<Opened>),
    Over,
}

impl Conversation {
    /// Calls `method` of a cluster, on behalf of the connection's client. `ahead` messages may wait to be sent; one that comes
    /// has `most` bytes at most.
    #[must_use]
    pub fn open(
        connection: &Arc<Connection>,
        config: &Arc<Config>,
        cluster: &Arc<str>,
        method: &'static str,
        (ahead, most): (usize, usize),
    ) -> Self {
        let (feed, messages) = mpsc::channel(ahead);
        let lines = [
            (header::CONTENT_TYPE, HeaderValue::from_static("application/grpc")),
            (header::TE, HeaderValue::from_static("trailers")),
            (HeaderName::from_static("grpc-accept-encoding"), HeaderValue::from_static("identity")),
        ];
        let (connection, config, cluster) = (Arc::clone(connection), Arc::clone(config), Arc::clone(cluster));
        let opening = async move {
            let outgoing = Outgoing {
                method: Method::POST,
                target: method.to_owned(),
                host: HeaderValue::try_from(&*cluster).map_err(|error| unheard(&error))?,
                headers: lines.into_iter().collect(),
                is_http2: true,
                hash: None,
                session: None,
            };
            forward::open(&connection, &config, &cluster, outgoing, Replay::fed(messages)).await
        };
        Self { feed, state: State::Opening(Box::pin(opening)), buffer: BytesMut::new(), most }
    }

    /// Says something.
    ///
    /// # Errors
    /// When it cannot be said.
    pub fn say(&self, message: &impl Message) -> Result<(), CallError> {
        // Whoever does not listen any more says so by itself.
        self.feed.try_send(framed(message)?).or_else(|error| match error {
            mpsc::error::TrySendError::Closed(_) => Ok(()),
            mpsc::error::TrySendError::Full(_) => {
                Err(CallError::Unanswered(unheard(&"more was to be said than is listened to")))
            }
        })
    }

    /// What comes next; nothing when the call has ended well. Safe to cancel.
    ///
    /// # Errors
    /// Why nothing comes.
    pub async fn hear<A: Message + Default>(&mut self) -> Result<Option<A>, CallError> {
        loop {
            if let Some(message) = split(&mut self.buffer, self.most)? {
                return A::decode(message).map(Some).map_err(|error| CallError::Unusable(error.to_string()));
            }
            match &mut self.state {
                State::Opening(opening) => {
                    let opened = opening.as_mut().await;
                    self.state = State::Over;
                    let opened = opened.map_err(CallError::Unanswered)?;
                    let (status, headers) = (opened.response.status(), opened.response.headers());
                    if status != StatusCode::OK {
                        return Err(CallError::Unanswered(unheard(&format!("the answer's status is {status}"))));
                    }
                    if grpc::status_in(headers).is_some() {
                        return ended(headers);
                    }
                    self.state = State::Open(Box::new(opened));
                }
                State::Open(opened) => match opened.response.body_mut().frame().await {
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(bytes) => self.buffer.extend_from_slice(&bytes),
                        Err(frame) => {
                            self.state = State::Over;
                            return self.at_end(&frame.into_trailers().unwrap_or_default());
                        }
                    },
                    Some(Err(error)) => {
                        self.state = State::Over;
                        return Err(CallError::Unanswered(Failure::new(Reason::ResetByPeer, error)));
                    }
                    None => {
                        self.state = State::Over;
                        return self.at_end(&HeaderMap::new());
                    }
                },
                State::Over => return Ok(None),
            }
        }
    }

    fn at_end<A>(&self, trailers: &HeaderMap) -> Result<Option<A>, CallError> {
        if !self.buffer.is_empty() {
            return Err(CallError::Unusable("is cut off".to_owned()));
        }
        ended(trailers)
    }
}

fn unheard(problem: &dyn std::fmt::Display) -> Failure {
    Failure::new(Reason::UpstreamConnectFailed, problem)
}

fn ended<A>(trailers: &HeaderMap) -> Result<Option<A>, CallError> {
    match grpc::status_in(trailers) {
        Some(0) => Ok(None),
        Some(code) => Err(CallError::Unanswered(unheard(&format!("the call ended with status {code} of gRPC")))),
        None => Err(CallError::Unanswered(unheard(&"the call ended without a status of gRPC"))),
    }
}

/// The next message that is there as a whole.
///
/// # Errors
/// When what is there is the beginning of none.
pub fn split(buffer: &mut BytesMut, most: usize) -> Result<Option<Bytes>, CallError> {
    let Some(([compressed, length @ ..], _)) = buffer.split_first_chunk::<PREFIX>() else { return Ok(None) };
    if *compressed != 0 {
        return Err(CallError::Unusable("is compressed".to_owned()));
    }
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    if length > most {
        return Err(CallError::Unusable(format!("is longer than {most} bytes")));
    }
    if buffer.len() - PREFIX < length {
        return Ok(None);
    }
    buffer.advance(PREFIX);
    Ok(Some(buffer.split_to(length).freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_whole_in_whatever_pieces_they_come() {
        let bytes = [&[0, 0, 0, 0, 2][..], b"ab", &[0, 0, 0, 0, 0], &[0, 0, 0, 0, 1], b"c"].concat();
        let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
        for byte in bytes {
            buffer.extend_from_slice(&[byte]);
            while let Some(message) = split(&mut buffer, 2).unwrap() {
                found.push(message);
            }
        }
        assert_eq!(found, ["ab", "", "c"]);
        for (bytes, problem) in
            [([0, 0, 0, 0, 3], "the answer is longer than 2 bytes"), ([1, 0, 0, 0, 0], "the answer is compressed")]
        {
            let wrong = split(&mut BytesMut::from(&bytes[..]), 2).unwrap_err();
            assert_eq!(wrong.to_string(), problem);
        }
    }
}
