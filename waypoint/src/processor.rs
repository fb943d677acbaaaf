//! Has an external processor see requests and their answers, and changes them as it says (Envoy's `ext_proc`): headers, bodies
//! and trailers, as far as the configuration has them seen. It is asked about what policies let pass, when the route is known.

use std::sync::Arc;

use fairway_core::limits;
use fairway_core::reason::Reason;
use fairway_proto::external_processor::processing_request::Request;
use fairway_proto::external_processor::{HeaderLine, HeaderMap as Lines, HttpHeaders};
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Body;
use tokio::time::{Duration, timeout, timeout_at};

use self::flow::{Stopped, Ungathered};
use self::heard::{Part, Rules, Side};
use self::session::Session;
use crate::body::{AnswerError, Coming};
use crate::config::{BodyMode, Config, Header, Modes, Parts, Processor};
use crate::edits;
use crate::facts::Head;
use crate::failure::Failure;
use crate::forward::Answered;
use crate::framing;
use crate::idle::Silence;
use crate::replay::{BodyError, Received};
use crate::stream::Connection;

mod flow;
pub mod heard;
mod session;

/// What a processor sees of one request and its answer.
pub struct Seen {
    session: Session,
    modes: Modes,
    /// Bytes of a body that is shown at once.
    most: usize,
    /// How long a client has for one.
    patience: Duration,
}

/// What becomes of a body.
enum Shown<B: Body> {
    /// It goes on as it is.
    Untouched(B),
    /// This goes on.
    Whole(flow::Gathered),
    /// This goes on, and nobody has read the body in whose place it is.
    Replaced(flow::Gathered),
    /// It goes on piece by piece.
    Flows(B),
}

/// The headers of a request as a processor sees them.
#[must_use]
pub fn shown(head: &Head<'_>, headers: &HeaderMap) -> Lines {
    let own = [
        (":method", Header::Method),
        (":scheme", Header::Scheme),
        (":authority", Header::Authority),
        (":path", Header::Path),
    ];
    let own = own.iter().filter_map(|(name, header)| Some(line(name, head.header(header)?.as_bytes())));
    Lines { headers: own.chain(lines(headers).headers).collect() }
}

fn lines(headers: &HeaderMap) -> Lines {
    Lines { headers: headers.iter().map(|(name, value)| line(name.as_str(), value.as_bytes())).collect() }
}

fn line(name: &str, value: &[u8]) -> HeaderLine {
    HeaderLine { key: name.to_owned(), value: String::new(), raw_value: value.to_vec() }
}

impl Seen {
    /// Nothing yet. Headers called `own` are not the processor's to change.
    #[must_use]
    pub fn begin(
        connection: &Arc<Connection>,
        config: &Arc<Config>,
        (processor, modes): (&Arc<Processor>, Modes),
        own: Vec<HeaderName>,
    ) -> Self {
        let rules = Rules { modes, may_override: processor.may_override, own, kept: processor.kept.clone() };
        let session = Session::begin(connection, config, processor, rules);
        let limits = &connection.waypoint.limits;
        let patience = limits.duration(&limits::SHOWN_BODY_TIMEOUT);
        Self { session, modes, most: limits.size(&limits::PROCESSOR_BODY), patience }
    }

    /// Whether bodies are seen of what comes next.
    #[must_use]
    pub fn has_bodies(&self) -> bool {
        self.modes.request.has_body() || self.modes.response.has_body()
    }

    /// Why nothing goes on, if so: a processor may say it while the body of a request is on its way.
    #[must_use]
    pub fn failure(&self) -> Option<Failure> {
        self.session.failure()
    }

    /// Shows a request with these headers, and changes it. Says whether its route is to be chosen again.
    ///
    /// # Errors
    /// Why it is not sent on.
    pub async fn request(
        &mut self,
        shown: Lines,
        headers: &mut HeaderMap,
        body: &mut Received,
    ) -> Result<bool, Failure> {
        let source = std::mem::replace(body, Received::whole(bytes::Bytes::new(), None));
        let patience = self.patience;
        let gathering = |body, most| async move {
            let late = |_elapsed| Failure::too_slow(Reason::TimedOut, format!("no whole body within {patience:?}"));
            let gathered = timeout(patience, flow::gather(body, most, None, || None)).await.map_err(late)?;
            gathered.map_err(|error| match error {
                // There is a bound for all of it.
                Ungathered::Silent(longest) => {
                    Failure::too_slow(Reason::TimedOut, format!("nothing more of the body within {longest:?}"))
                }
                Ungathered::Broken(error) => Failure::new(Reason::ClientLeft, error),
                Ungathered::TooLong => {
                    let failure = Failure::new(Reason::BadRequest, too_long(most));
                    Failure { status: Some(StatusCode::PAYLOAD_TOO_LARGE), ..failure }
                }
            })
        };
        let (shown, is_rerouted) = self.show(Side::Request, shown, headers, source, gathering).await?;
        *body = match shown {
            Shown::Untouched(body) => body,
            Shown::Whole((data, trailers)) | Shown::Replaced((data, trailers)) => Received::whole(data, trailers),
            Shown::Flows(source) => {
                let flow = flow::flow(source, self.session.clone(), Side::Request, self.modes.request);
                let flow = StreamBody::new(flow).map_err(|stopped| match stopped {
                    Stopped::Source(error) => error,
                    Stopped::Processor(problem) => BodyError::Processor(problem),
                });
                Received::flowing(flow.boxed_unsync())
            }
        };
        Ok(is_rerouted)
    }

    /// Shows an answer, and changes it.
    ///
    /// # Errors
    /// Why the client does not get it.
    pub async fn answer(mut self, answered: &mut Answered) -> Result<(), Failure> {
        if !self.modes.response.is_any() {
            return Ok(());
        }
        let (deadline, longest, request) = (answered.deadline(), answered.longest_silence(), answered.request());
        let source = answered.take_body();
        let (status, headers) = answered.head();
        let mut seen = headers.clone();
        framing::remove_hop_by_hop(&mut seen);
        let own = [line(":status", status.as_str().as_bytes())];
        let shown = Lines { headers: own.into_iter().chain(lines(&seen).headers).collect() };
        let gathering = |body, most| async move {
            // Who answers may wait for the rest of what was asked.
            let gathering = flow::gather(body, most, longest.and_then(Silence::bounded), || request.moved());
            let gathered = match deadline {
                None => gathering.await,
                Some(deadline) => match timeout_at(deadline, gathering).await {
                    Ok(gathered) => gathered,
                    Err(_elapsed) => return Err(Failure::new(Reason::TimedOut, AnswerError::Late)),
                },
            };
            gathered.map_err(|error| match error {
                Ungathered::Broken(error) => Failure::new(Reason::ResetByPeer, error),
                Ungathered::Silent(longest) => Failure::new(Reason::IdleTimeout, AnswerError::Silent(longest)),
                Ungathered::TooLong => {
                    let failure = Failure::new(Reason::ProcessorFailed, too_long(most));
                    Failure { status: Some(StatusCode::INTERNAL_SERVER_ERROR), ..failure }
                }
            })
        };
        let (shown, _is_rerouted) = self.show(Side::Response, shown, headers, source, gathering).await?;
        answered.put_body(match shown {
            Shown::Untouched(body) => body,
            Shown::Whole((data, trailers)) => Coming::whole(data, trailers, true),
            Shown::Replaced((data, trailers)) => Coming::whole(data, trailers, false),
            Shown::Flows(source) => {
                let flow = flow::flow(source, self.session.clone(), Side::Response, self.modes.response);
                let flow = StreamBody::new(flow).map_err(|stopped| match stopped {
                    Stopped::Source(error) => error,
                    Stopped::Processor(problem) => AnswerError::Processor(problem),
                });
                Coming::flowing(flow.boxed_unsync())
            }
        });
        Ok(())
    }

    /// Shows what is to be shown of one side: its headers, and its body and trailers unless these are shown as they come.
    async fn show<B, G>(
        &mut self,
        side: Side,
        shown: Lines,
        headers: &mut HeaderMap,
        body: B,
        gathering: impl FnOnce(B, usize) -> G,
    ) -> Result<(Shown<B>, bool), Failure>
    where
        B: Body,
        G: Future<Output = Result<flow::Gathered, Failure>>,
    {
        let has_body = !body.is_end_stream();
        let mut is_rerouted = false;
        if self.parts(side).headers {
            let shown = HttpHeaders { headers: Some(shown), end_of_stream: !has_body };
            let request = match side {
                Side::Request => Request::RequestHeaders(shown),
                Side::Response => Request::ResponseHeaders(shown),
            };
            let Some(heard) = self.session.ask((side, Part::Headers), request).await? else {
                return Ok((Shown::Untouched(body), false));
            };
            edits::apply(&heard.edits, headers);
            is_rerouted = heard.is_rerouted;
            self.modes = heard.modes.unwrap_or(self.modes);
            if heard.is_last {
                return Ok(match heard.body {
                    None => (Shown::Untouched(body), is_rerouted),
                    Some(new) => {
                        // What there is instead has another length, which its sender knows.
                        headers.remove(header::CONTENT_LENGTH);
                        (Shown::Replaced((new, None)), is_rerouted)
                    }
                });
            }
        }
        let parts = self.parts(side);
        if !has_body || !(parts.has_body() || parts.trailers) {
            return Ok((Shown::Untouched(body), is_rerouted));
        }
        if parts.body != BodyMode::Buffered {
            if parts.has_body() {
                headers.remove(header::CONTENT_LENGTH);
            }
            return Ok((Shown::Flows(body), is_rerouted));
        }
        headers.remove(header::CONTENT_LENGTH);
        let (mut data, mut trailers) = gathering(body, self.most).await?;
        let request = flow::body(side, data.clone(), trailers.is_none());
        if let Some(heard) = self.session.ask((side, Part::Body), request).await? {
            edits::apply(&heard.edits, headers);
            is_rerouted |= heard.is_rerouted;
            data = heard.body.unwrap_or(data);
            if let Some(trailers) = trailers.as_mut().filter(|_| parts.trailers && !heard.is_last) {
                flow::trailers(&self.session, side, trailers).await?;
            }
        }
        Ok((Shown::Whole((data, trailers)), is_rerouted))
    }

    fn parts(&self, side: Side) -> Parts {
        match side {
            Side::Request => self.modes.request,
            Side::Response => self.modes.response,
        }
    }
}

fn too_long(most: usize) -> String {
    format!(
        "the body is longer than the {most} bytes that a processor is shown at once ({})",
        limits::PROCESSOR_BODY.name
    )
}
