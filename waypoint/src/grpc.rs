//! gRPC on top of HTTP: which requests are its, and what its statuses are in the other's words.

use http::{HeaderMap, HeaderValue, StatusCode, header};

/// Whether a request is gRPC's, by the type of its body.
#[must_use]
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let rest = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.as_bytes().strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// The status among headers or trailers.
#[must_use]
pub fn status_in(headers: &HeaderMap) -> Option<u32> {
    headers.get("grpc-status").and_then(|status: &HeaderValue| status.to_str().ok()?.parse().ok())
}

/// As gRPC itself reads a status of HTTP (its document http-grpc-status-mapping).
#[must_use]
pub fn code(status: StatusCode) -> u32 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

/// As Envoy tells a status of gRPC to clients that speak HTTP only.
#[must_use]
pub fn status(code: u32) -> StatusCode {
    match code {
        0 => StatusCode::OK,
        // The client has closed the request: known by many, registered by nobody.
        1 => StatusCode::from_u16(499).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        3 | 9 | 11 => StatusCode::BAD_REQUEST,
        4 => StatusCode::GATEWAY_TIMEOUT,
        5 => StatusCode::NOT_FOUND,
        6 | 10 => StatusCode::CONFLICT,
        7 => StatusCode::FORBIDDEN,
        8 => StatusCode::TOO_MANY_REQUESTS,
        12 => StatusCode::NOT_IMPLEMENTED,
        14 => StatusCode::SERVICE_UNAVAILABLE,
        16 => StatusCode::UNAUTHORIZED,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_told_in_both_words() {
        for (status, expected) in [(400, 13), (401, 16), (403, 7), (404, 12), (503, 14), (504, 14), (500, 2), (418, 2)]
        {
            assert_eq!(code(StatusCode::from_u16(status).unwrap()), expected, "{status}");
        }
        for (code, expected) in [(0, 200), (1, 499), (4, 504), (7, 403), (14, 503), (16, 401), (13, 500), (99, 500)] {
            assert_eq!(status(code).as_u16(), expected, "{code}");
        }
    }

    #[test]
    fn calls_are_told_by_the_type_of_their_body() {
        for (kind, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;x", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(kind))]);
            assert_eq!(is_grpc(&headers), expected, "{kind}");
        }
    }
}
