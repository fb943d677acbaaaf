//! Numbered steps for people to read.

use std::time::Instant;

/// Output of the demo.
pub(super) struct Tour {
    colour: bool,
    started: Instant,
    number: usize,
    title: String,
}

impl Tour {
    pub(super) fn new(colour: bool) -> Self {
        Self { colour, started: Instant::now(), number: 0, title: "bringing up the lab".to_owned() }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(super) fn colour(&self) -> bool {
        self.colour
    }

    /// Starts the next step.
    pub(super) fn step(&mut self, title: &str) {
        self.number += 1;
        self.title = title.to_owned();
        crate::say!("\n{}", self.paint("1", &format!("{}. {title}", self.number)));
    }

    /// Something that was checked.
    pub(super) fn holds(&self, fact: &str) {
        crate::say!("   {} {fact}", self.paint("32", "✓"));
    }

    /// Evidence, as it was found.
    pub(super) fn shows(&self, evidence: &str) {
        for line in evidence.lines() {
            crate::say!("     {}", self.paint("2", line));
        }
    }

    /// The step that is being done.
    pub(super) fn current(&self) -> String {
        format!("step {} ({}) does not hold", self.number, self.title)
    }

    pub(super) fn finish(&self) {
        crate::say!("\n{} in {:.1} s", self.paint("1;32", "Every step held"), self.started.elapsed().as_secs_f32());
    }
}
