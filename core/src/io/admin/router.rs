//! Which handler answers which path, and short ways to write a reply.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header, request};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::Body;

/// Rows of a long table written together: some 100 KiB of them.
const ROWS_PER_PIECE: usize = 128;

/// Bytes of a page that is written piece by piece.
const PIECE: usize = 64 * 1024;
/// Pieces of such a page that wait for the reader.
const PIECES_WAITING: usize = 2;

/// What a handler returns.
pub type Reply = Response<Body>;

/// A request without its body: none of our handlers takes one.
#[derive(Clone, Debug)]
pub struct Request {
    /// Method.
    pub method: Method,
    /// Path without query.
    pub path: String,
    /// Query, still encoded, without the question mark.
    pub query: Option<String>,
    /// Headers.
    pub headers: HeaderMap,
    /// Who asks.
    pub peer: SocketAddr,
}

impl Request {
    /// The decoded value of a query parameter; empty for one without a value.
    pub fn parameter(&self, name: &str) -> Option<String> {
        self.parameters(name).next()
    }

    /// The decoded values of a query parameter that may be there several times.
    pub fn parameters(&self, name: &str) -> impl Iterator<Item = String> {
        self.query.iter().flat_map(|query| query.split('&')).filter_map(move |pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key) == name).then(|| decode(value))
        })
    }
}

/// Percent-decoding as forms do it: `+` is a space, what is not an escape stays.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escape = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match (first, escape.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = tail.get(2..).unwrap_or_default();
                continue;
            }
            (b'+', _) => bytes.push(b' '),
            (other, _) => bytes.push(other),
        }
        rest = tail;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

type Handler = Arc<dyn Fn(Request) -> Pin<Box<dyn Future<Output = Reply> + Send>> + Send + Sync>;

#[derive(Clone)]
struct Route {
    /// `None` answers every method.
    method: Option<Method>,
    handler: Handler,
}

/// Paths and their handlers. Cheap to clone. At `/` is a list of them, unless something else is.
#[derive(Clone, Default)]
pub struct Router {
    routes: Arc<BTreeMap<String, Vec<Route>>>,
    otherwise: Option<Handler>,
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.routes.keys()).finish()
    }
}

impl Router {
    /// A router that knows no path.
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers GET (and HEAD) on `path`.
    #[must_use]
    pub fn get<F>(self, path: &str, handler: impl Fn(Request) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Reply> + Send + 'static,
    {
        self.route(Some(Method::GET), path, handler)
    }

    /// Answers POST on `path`.
    #[must_use]
    pub fn post<F>(self, path: &str, handler: impl Fn(Request) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Reply> + Send + 'static,
    {
        self.route(Some(Method::POST), path, handler)
    }

    /// Answers every method on `path`.
    #[must_use]
    pub fn any<F>(self, path: &str, handler: impl Fn(Request) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Reply> + Send + 'static,
    {
        self.route(None, path, handler)
    }

    fn route<F>(
        mut self,
        method: Option<Method>,
        path: &str,
        handler: impl Fn(Request) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Reply> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |request| Box::pin(handler(request)));
        Arc::make_mut(&mut self.routes).entry(path.to_owned()).or_default().push(Route { method, handler });
        self
    }

    /// Answers what no other handler does.
    #[must_use]
    pub fn otherwise<F>(mut self, handler: impl Fn(Request) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Reply> + Send + 'static,
    {
        self.otherwise = Some(Arc::new(move |request| Box::pin(handler(request))));
        self
    }

    /// A page with links to those that only show something, and the names of the others.
    fn index(&self) -> Reply {
        let mut page = "<!doctype html><title>pages</title><ul>\n".to_owned();
        for (path, routes) in &*self.routes {
            let is_shown = |route: &Route| route.method.as_ref().is_none_or(|method| *method == Method::GET);
            if routes.iter().any(is_shown) {
                page.push_str(&format!("<li><a href=\"{0}\">{path}</a>\n", path.trim_start_matches('/')));
            } else {
                let methods = routes.iter().filter_map(|route| route.method.as_ref()).map(Method::as_str);
                page.push_str(&format!("<li>{} {path}\n", methods.collect::<Vec<_>>().join(", ")));
            }
        }
        page.push_str("</ul>\n");
        html(page)
    }

    /// The registered paths, sorted.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.routes.keys().map(String::as_str)
    }

    pub(super) async fn answer(&self, head: request::Parts, peer: SocketAddr) -> Reply {
        let path = head.uri.path().to_owned();
        let wanted = if head.method == Method::HEAD { Method::GET } else { head.method.clone() };
        let handler = match (self.routes.get(&path), &self.otherwise) {
            (Some(routes), _) => {
                let is_wanted = |route: &&Route| route.method.as_ref().is_none_or(|method| *method == wanted);
                let Some(route) = routes.iter().find(is_wanted) else { return wrong_method(routes) };
                &route.handler
            }
            (None, Some(otherwise)) => otherwise,
            (None, None) if path == "/" && wanted == Method::GET => return self.index(),
            (None, None) => {
                let known: Vec<&str> = self.paths().collect();
                return text(StatusCode::NOT_FOUND, format!("no such page; there are: {}\n", known.join(" ")));
            }
        };
        let request = Request {
            method: head.method,
            path,
            query: head.uri.query().map(str::to_owned),
            headers: head.headers,
            peer,
        };
        handler(request).await
    }
}

fn wrong_method(routes: &[Route]) -> Reply {
    let allowed: Vec<&str> = routes.iter().filter_map(|route| route.method.as_ref()).map(Method::as_str).collect();
    let allowed = allowed.join(", ");
    let mut reply = text(StatusCode::METHOD_NOT_ALLOWED, format!("use {allowed}\n"));
    if let Ok(value) = HeaderValue::from_str(&allowed) {
        reply.headers_mut().insert(header::ALLOW, value);
    }
    reply
}

/// A plain-text reply.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    reply(status, "text/plain; charset=utf-8", body.into())
}

/// An HTML reply.
pub fn html(body: impl Into<Bytes>) -> Reply {
    reply(StatusCode::OK, "text/html; charset=utf-8", body.into())
}

/// A pretty-printed JSON reply.
pub fn json(value: &impl Serialize) -> Reply {
    match serde_json::to_vec_pretty(value) {
        Ok(body) => reply(StatusCode::OK, "application/json", body.into()),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot write this as JSON: {error}\n")),
    }
}

/// Rows of a long table, a JSON object a line. A piece at a time is written, when the reader has taken the one before: what is
/// held in memory does not grow with the table.
pub fn json_lines<T: Serialize>(mut rows: impl Iterator<Item = T> + Send + 'static) -> Reply {
    let pieces = std::iter::from_fn(move || {
        let mut piece = Vec::new();
        for row in rows.by_ref().take(ROWS_PER_PIECE) {
            // A row that cannot be written is left out; our rows can.
            if let Ok(line) = serde_json::to_vec(&row) {
                piece.extend(line);
                piece.push(b'\n');
            }
        }
        (!piece.is_empty()).then(|| Ok::<_, Infallible>(Frame::data(Bytes::from(piece))))
    });
    typed(StatusCode::OK, "application/x-ndjson", StreamBody::new(stream::iter(pieces)).boxed_unsync())
}

/// JSON that `write` writes, on a thread of its own and as fast as the reader takes it: neither does a long page hold up traffic,
/// nor is more of it in memory than a few pieces. A reader that leaves is an error of the writer.
pub fn json_written(write: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static) -> Reply {
    let (sender, pieces) = mpsc::channel(PIECES_WAITING);
    tokio::task::spawn_blocking(move || {
        let mut pieces = io::BufWriter::with_capacity(PIECE, Pieces(sender));
        if let Err(error) = write(&mut pieces).and_then(|()| pieces.flush()) {
            tracing::debug!(%error, "a page was not read to its end");
        }
    });
    let frames = ReceiverStream::new(pieces).map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
    typed(StatusCode::OK, "application/json", StreamBody::new(frames).boxed_unsync())
}

/// Each write is a piece.
struct Pieces(mpsc::Sender<Bytes>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Bytes::copy_from_slice(bytes);
        self.0.blocking_send(piece).map_err(|_left| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn reply(status: StatusCode, content_type: &'static str, body: Bytes) -> Reply {
    typed(status, content_type, Full::new(body).boxed_unsync())
}

fn typed(status: StatusCode, content_type: &'static str, body: Body) -> Reply {
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let request = |query: Option<&str>| Request {
            method: Method::POST,
            path: "/logging".to_owned(),
            query: query.map(str::to_owned),
            headers: HeaderMap::new(),
            peer: SocketAddr::from(([127, 0, 0, 1], 1)),
        };
        let rows = [
            (Some("level=access%3Ddebug,info"), Some("access=debug,info")),
            (Some("a=b&level=info"), Some("info")),
            (Some("level"), Some("")),
            (Some("level=a+b%2"), Some("a b%2")),
            (Some("levels=info"), None),
            (None, None),
        ];
        for (query, expected) in rows {
            assert_eq!(request(query).parameter("level").as_deref(), expected, "{query:?}");
        }
        let several = request(Some("a=1&b=2&a=%33"));
        assert_eq!(several.parameters("a").collect::<Vec<_>>(), ["1", "3"]);
    }
}
