//! The part of the server pod that takes long bodies, and sends them.

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response};

use crate::body::{self, Long};

/// Sends a body as long as the path says (`/BYTES`), or takes one, as slowly as the path says (`/BYTES` of it at first), and
/// tells how long it was.
///
/// # Errors
/// When the request's body breaks off.
pub(super) async fn answer(request: Request<Incoming>) -> hyper::Result<Response<Either<Long, Full<Bytes>>>> {
    // Who asks for no number wants nothing.
    let bytes = request.uri().path().trim_start_matches('/').parse().unwrap_or(0);
    if request.method() == Method::GET {
        return Ok(Response::new(Either::Left(Long::new(bytes, true))));
    }
    let taken = body::read(request.into_body(), bytes).await?;
    Ok(Response::new(Either::Right(Full::new(Bytes::from(taken.to_string())))))
}
