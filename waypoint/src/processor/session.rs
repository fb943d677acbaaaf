//! One conversation with a processor about one request: what is asked, and by when it is answered.

use std::sync::{Arc, OnceLock};

use fairway_core::limits;
use fairway_core::reason::Reason;
use fairway_proto::external_processor::processing_request::Request;
use fairway_proto::external_processor::{ProcessingRequest, ProcessingResponse, ProtocolConfiguration};
use http::StatusCode;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Duration, Instant, sleep_until};

use super::heard::{self, Heard, Part, Phase, Rules, Said, Side};
use crate::call::CallError;
use crate::config::{BodyMode, Config, Processor};
use crate::conversation::Conversation;
use crate::failure::Failure;
use crate::stream::Connection;

const METHOD: &str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";
/// Questions at a time: one of each side.
const QUESTIONS: usize = 2;
/// The least that a processor may ask for (Envoy's `override_message_timeout`).
const LEAST: Duration = Duration::from_millis(1);

/// One conversation. It ends with the last of its clones.
#[derive(Clone)]
pub(super) struct Session {
    asks: mpsc::Sender<Ask>,
    end: Arc<OnceLock<End>>,
    status_on_error: StatusCode,
}

struct Ask {
    phase: Phase,
    request: Request,
    reply: oneshot::Sender<Heard>,
}

/// How it ended.
enum End {
    /// The rest goes on without the processor.
    Left,
    /// The rest goes nowhere.
    Failed(Failure),
}

/// A question that waits for its answer.
struct Waiting {
    phase: Phase,
    reply: oneshot::Sender<Heard>,
    until: Instant,
    /// More time was asked for, which may be done once.
    is_extended: bool,
}

/// Both sides' questions.
#[derive(Default)]
struct Questions(Vec<Waiting>);

impl Questions {
    fn take(&mut self, phase: Phase) -> Option<Waiting> {
        let place = self.0.iter().position(|waiting| waiting.phase == phase)?;
        Some(self.0.swap_remove(place))
    }

    /// Gives the question that has waited longest of those that may wait longer as much time.
    fn extend(&mut self, until: Instant) {
        let may = self.0.iter_mut().filter(|waiting| !waiting.is_extended);
        if let Some(waiting) = may.min_by_key(|waiting| waiting.until) {
            (waiting.until, waiting.is_extended) = (until, true);
        }
    }

    fn until(&self) -> Option<Instant> {
        self.0.iter().map(|waiting| waiting.until).min()
    }
}

impl Session {
    /// Nobody is called before something is asked.
    #[must_use]
    pub(super) fn begin(
        connection: &Arc<Connection>,
        config: &Arc<Config>,
        processor: &Arc<Processor>,
        rules: Rules,
    ) -> Self {
        let (asks, questions) = mpsc::channel(QUESTIONS);
        let end = Arc::<OnceLock<End>>::default();
        let (connection, config) = (Arc::clone(connection), Arc::clone(config));
        let talk = Talk { connection, config, processor: Arc::clone(processor), rules };
        let ended = Arc::clone(&end);
        tokio::spawn(async move {
            // Set before the questions are dropped, so that who waits for an answer finds it.
            let mut questions = questions;
            let mut waiting = Questions::default();
            drop(ended.set(talk.run(&mut questions, &mut waiting).await));
        });
        Self { asks, end, status_on_error: processor.status_on_error }
    }

    /// Asks; nothing where there is nobody to ask any more and the rest goes on without.
    ///
    /// # Errors
    /// Why the rest goes nowhere.
    pub(super) async fn ask(&self, phase: Phase, request: Request) -> Result<Option<Heard>, Failure> {
        let (reply, answer) = oneshot::channel();
        if self.asks.send(Ask { phase, request, reply }).await.is_ok()
            && let Ok(heard) = answer.await
        {
            return Ok(Some(heard));
        }
        self.failure().map_or(Ok(None), Err)
    }

    /// Lets the rest go nowhere, as an answer asks for what cannot be done.
    pub(super) fn break_off(&self, problem: &str) {
        let failure = Failure::new(Reason::ProcessorFailed, problem);
        drop(self.end.set(End::Failed(Failure { status: Some(self.status_on_error), ..failure })));
    }

    /// Why the rest goes nowhere, if so.
    #[must_use]
    pub(super) fn failure(&self) -> Option<Failure> {
        match self.end.get() {
            Some(End::Failed(failure)) => Some(failure.clone()),
            Some(End::Left) | None => None,
        }
    }
}

/// Who talks about what.
struct Talk {
    connection: Arc<Connection>,
    config: Arc<Config>,
    processor: Arc<Processor>,
    rules: Rules,
}

impl Talk {
    async fn run(&self, asks: &mut mpsc::Receiver<Ask>, waiting: &mut Questions) -> End {
        let Some(first) = asks.recv().await else { return End::Left };
        let most = self.connection.waypoint.limits.size(&limits::PROCESSOR_MESSAGE);
        let cluster = &self.processor.cluster;
        let bounds = (QUESTIONS, most);
        let mut conversation = Conversation::open(&self.connection, &self.config, cluster, METHOD, bounds);
        if let Err(error) = self.put(&conversation, waiting, first, Some(self.configuration())) {
            return self.failed(error);
        }
        loop {
            let until = waiting.until();
            let heard = tokio::select! {
                ask = asks.recv() => match ask {
                    Some(ask) => self.put(&conversation, waiting, ask, None),
                    // Whom it was about has gone, or has come to its end.
                    None => return End::Left,
                },
                said = conversation.hear::<ProcessingResponse>() => match said {
                    Ok(Some(message)) => match self.heard(message, waiting) {
                        Ok(None) => Ok(()),
                        Ok(Some(answer)) => return End::Failed(*answer),
                        Err(problem) => Err(CallError::Unusable(problem)),
                    },
                    Ok(None) => return End::Left,
                    Err(error) => Err(error),
                },
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                    let detail = format!("no answer within {:?}", self.processor.timeout);
                    Err(CallError::Unanswered(Failure::new(Reason::TimedOut, detail)))
                }
            };
            if let Err(error) = heard {
                return self.failed(error);
            }
        }
    }

    /// Says what is asked.
    fn put(
        &self,
        conversation: &Conversation,
        waiting: &mut Questions,
        ask: Ask,
        protocol_config: Option<ProtocolConfiguration>,
    ) -> Result<(), CallError> {
        let Ask { phase, request, reply } = ask;
        let until = Instant::now() + self.processor.timeout;
        waiting.0.push(Waiting { phase, reply, until, is_extended: false });
        conversation.say(&ProcessingRequest { request: Some(request), protocol_config })
    }

    /// Does what a message says; comes back with the answer for the client, if it is one.
    fn heard(&self, message: ProcessingResponse, waiting: &mut Questions) -> Result<Option<Box<Failure>>, String> {
        match heard::read(message, &self.rules)? {
            Said::Waits(time) => {
                // As Envoy has it, what goes too far changes nothing.
                if self.processor.longest.is_some_and(|longest| (LEAST..=longest).contains(&time)) {
                    waiting.extend(Instant::now() + time);
                }
                Ok(None)
            }
            Said::Answers(phase, heard) => {
                let asked = waiting.take(phase).ok_or_else(|| format!("is about {}, and nobody asked", name(phase)))?;
                self.connection.waypoint.telemetry.processed(&self.processor.cluster);
                // Who does not wait any more has gone.
                drop(asked.reply.send(heard));
                Ok(None)
            }
            Said::Replies(_) if waiting.0.is_empty() => Err("is one of its own, and nobody asked".to_owned()),
            Said::Replies(answer) => {
                self.connection.waypoint.telemetry.processed(&self.processor.cluster);
                let detail = format!("{}: {}", self.processor.cluster, answer.detail);
                Ok(Some(Box::new(Failure { detail, ..*answer })))
            }
        }
    }

    /// What holds when there are no answers any more. One that has come and cannot be used may have been a no, and never fails
    /// open.
    fn failed(&self, error: CallError) -> End {
        let passes = self.processor.fails_open && matches!(error, CallError::Unanswered(_));
        let detail = format!("{}: {error}", self.processor.cluster);
        self.connection.waypoint.telemetry.unprocessed(&self.processor.cluster, passes, &detail);
        if passes {
            return End::Left;
        }
        let failure = Failure::new(Reason::ProcessorFailed, detail);
        End::Failed(Failure { status: Some(self.processor.status_on_error), ..failure })
    }

    fn configuration(&self) -> ProtocolConfiguration {
        let mode = |mode| match mode {
            BodyMode::Unseen => 0,
            BodyMode::Streamed => 1,
            BodyMode::Buffered => 2,
        };
        let modes = &self.rules.modes;
        ProtocolConfiguration {
            request_body_mode: mode(modes.request.body),
            response_body_mode: mode(modes.response.body),
        }
    }
}

fn name((side, part): Phase) -> &'static str {
    match (side, part) {
        (Side::Request, Part::Headers) => "request_headers",
        (Side::Request, Part::Body) => "request_body",
        (Side::Request, Part::Trailers) => "request_trailers",
        (Side::Response, Part::Headers) => "response_headers",
        (Side::Response, Part::Body) => "response_body",
        (Side::Response, Part::Trailers) => "response_trailers",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_time_is_given_once_to_who_waits_longest() {
        let (begun, second) = (Instant::now(), Duration::from_secs(1));
        let mut questions = Questions::default();
        for (side, after) in [(Side::Request, 2), (Side::Response, 1)] {
            let (reply, _nobody) = oneshot::channel();
            let until = begun + second * after;
            questions.0.push(Waiting { phase: (side, Part::Body), reply, until, is_extended: false });
        }
        assert_eq!(questions.until(), Some(begun + second));
        questions.extend(begun + second * 9);
        assert_eq!(questions.until(), Some(begun + second * 2), "the answer's question has more time");
        questions.extend(begun + second * 8);
        questions.extend(begun + second * 99);
        assert_eq!(questions.until(), Some(begun + second * 8), "each has it once");
        assert!(questions.take((Side::Request, Part::Headers)).is_none(), "nobody asked that");
        assert!(questions.take((Side::Request, Part::Body)).is_some());
        assert_eq!(questions.until(), Some(begun + second * 9));
    }
}
