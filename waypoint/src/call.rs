//! One unary call of gRPC to a service that we ask or tell something (gRPC over HTTP2, its document PROTOCOL-HTTP2).

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use fairway_core::reason::Reason;
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use prost::Message;

use crate::config::Config;
use crate::failure::Failure;
use crate::forward::{self, Outgoing, Unread};
use crate::grpc;
use crate::stream::Connection;

/// Bytes before a message: whether it is compressed, and its length.
pub(crate) const PREFIX: usize = 5;

/// Who is called, and how.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Where.
    pub cluster: &'a Arc<str>,
    /// Path of the method.
    pub method: &'static str,
    /// An answer has to be there by then.
    pub timeout: Duration,
    /// Whether to ask twice is to ask once, so that it may be done where nobody knows whether the question was heard.
    pub may_repeat: bool,
}

/// Why there is no answer, or none that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Nobody has answered.
    #[error("{} ({})", .0.detail, .0.reason)]
    Unanswered(Failure),
    /// Somebody has, in a way that cannot be understood.
    #[error("the answer {0}")]
    Unusable(String),
}

impl Call<'_> {
    /// Calls, on behalf of the connection's client.
    ///
    /// # Errors
    /// Why there is no answer, or none that can be used.
    pub async fn unary<A: Message + Default>(
        self,
        connection: &Arc<Connection>,
        config: &Config,
        question: &impl Message,
    ) -> Result<A, CallError> {
        let lines = [
            (header::CONTENT_TYPE, HeaderValue::from_static("application/grpc")),
            (header::TE, HeaderValue::from_static("trailers")),
            (HeaderName::from_static("grpc-timeout"), deadline(self.timeout)?),
        ];
        let outgoing = Outgoing {
            method: Method::POST,
            target: self.method.to_owned(),
            host: HeaderValue::try_from(&**self.cluster).map_err(unanswered)?,
            headers: lines.into_iter().collect(),
            is_http2: true,
            hash: None,
            session: None,
        };
        let (question, patience) = (framed(question)?, self.timeout);
        let asked = forward::ask(connection, config, self.cluster, outgoing, question, patience, self.may_repeat).await;
        let answer = asked.map_err(CallError::Unanswered)?;
        if answer.status != StatusCode::OK {
            return Err(unanswered(format!("the answer's status is {}", answer.status)));
        }
        let body = answer.body.map_err(|unread| match unread {
            // It has come, and is longer than anybody would be listened to.
            Unread::TooLong(_) => CallError::Unusable(unread.to_string()),
            Unread::Failed(failure) => CallError::Unanswered(failure),
        })?;
        match grpc::status_in(&answer.trailers).or_else(|| grpc::status_in(&answer.headers)) {
            Some(0) => unframed(&body),
            Some(code) => Err(unanswered(format!("the call ended with status {code} of gRPC"))),
            None => Err(unanswered("the call ended without a status of gRPC")),
        }
    }
}

fn unanswered(problem: impl ToString) -> CallError {
    CallError::Unanswered(Failure::new(Reason::UpstreamConnectFailed, problem))
}

fn deadline(timeout: Duration) -> Result<HeaderValue, CallError> {
    // At most eight digits.
    let milliseconds = timeout.as_millis().min(99_999_999);
    HeaderValue::try_from(format!("{milliseconds}m")).map_err(unanswered)
}

/// A message with what comes before it.
///
/// # Errors
/// When it is too long.
pub(crate) fn framed(message: &impl Message) -> Result<Bytes, CallError> {
    let length = u32::try_from(message.encoded_len()).map_err(unanswered)?;
    let mut bytes = BytesMut::with_capacity(PREFIX + message.encoded_len());
    bytes.put_u8(0);
    bytes.put_u32(length);
    message.encode(&mut bytes).map_err(unanswered)?;
    Ok(bytes.freeze())
}

/// The one message that an answer is.
///
/// # Errors
/// When it is none.
pub fn unframed<A: Message + Default>(bytes: &[u8]) -> Result<A, CallError> {
    let unusable = |problem: &str| CallError::Unusable(problem.to_owned());
    let Some(([compressed, length @ ..], message)) = bytes.split_first_chunk::<PREFIX>() else {
        return Err(unusable("is cut off"));
    };
    let is_whole = u64::from(u32::from_be_bytes(*length)) == u64::try_from(message.len()).unwrap_or(u64::MAX);
    if *compressed != 0 || !is_whole {
        return Err(unusable("is compressed, or not one message"));
    }
    A::decode(message).map_err(|error| CallError::Unusable(error.to_string()))
}

#[cfg(test)]
mod tests {
    use fairway_proto::rpc_status::Status;

    use super::*;

    #[test]
    fn an_answer_is_one_message_that_is_not_compressed() {
        let message = Status { code: 3, ..Status::default() }.encode_to_vec();
        let length = u8::try_from(message.len()).unwrap();
        let framed = |prefix: [u8; 5]| [&prefix[..], &message].concat();
        assert_eq!(unframed::<Status>(&framed([0, 0, 0, 0, length])).unwrap().code, 3);
        for bytes in [
            framed([1, 0, 0, 0, length]),
            framed([0, 0, 0, 0, length - 1]),
            framed([0, 0xff, 0xff, 0xff, 0xff]),
            vec![0, 0, 0],
            vec![0, 0, 0, 0, 2, 0xff, 0xff],
        ] {
            assert!(matches!(unframed::<Status>(&bytes), Err(CallError::Unusable(_))), "{bytes:?}");
        }
    }

    #[test]
    fn what_is_asked_comes_back() {
        let message = Status { code: 3, message: "m".into(), ..Status::default() };
        assert_eq!(unframed::<Status>(&framed(&message).unwrap()).unwrap(), message);
    }
}
