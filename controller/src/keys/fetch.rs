//! One fetch: a plain GET over HTTP/1.1, with bounds on time and size. Redirections are not followed: they would lead around
//! [`Reach`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Reach;
use crate::l7::tokens::read::check_url;
use crate::l7::tokens::{Origin, keys};

/// Longest answer, in bytes; sets of keys have some thousand.
const MAXIMUM_BYTES: usize = 256 * 1024;

/// What an issuer says of its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// These are they.
    Keys(String),
    /// There are none, or none that checks signatures; with what to tell whoever wants them.
    Withdrawn(String),
}

/// Fetches keys.
#[derive(Clone)]
pub struct Fetcher {
    reach: Reach,
    tls: TlsConnector,
}

impl std::fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetcher").field("reach", &self.reach).finish_non_exhaustive()
    }
}

impl Fetcher {
    /// One that asks whom `reach` lets it, and believes whom this machine believes.
    ///
    /// # Errors
    /// When the provider of TLS has no usable version.
    pub fn new(reach: Reach, provider: Arc<rustls::crypto::CryptoProvider>) -> Result<Self, rustls::Error> {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        let (_, ignored) = roots.add_parsable_certificates(found.certs);
        if roots.is_empty() || ignored > 0 {
            tracing::info!(roots = roots.len(), ignored, "certificate authorities that keys may be fetched under");
        }
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { reach, tls: TlsConnector::from(Arc::new(config)) })
    }

    /// The keys there.
    ///
    /// # Errors
    /// Why nobody has said; what to tell whoever wants them.
    pub async fn keys(&self, origin: &Origin, timeout: Duration) -> Result<Answer, String> {
        let fetch = async {
            let url = match origin {
                Origin::Keys(url) => url.clone(),
                Origin::Issuer(issuer) => self.discover(issuer).await?,
            };
            let text = self.get(&url).await?;
            match keys::usable(&text) {
                Ok(keys) => Ok(Answer::Keys(keys)),
                Err(wrong) => {
                    let trouble = format!("what {url} answers {wrong}");
                    if keys::has_none(&text) { Ok(Answer::Withdrawn(trouble)) } else { Err(trouble) }
                }
            }
        };
        let late = |_| Err(format!("{origin} did not answer within {timeout:?}"));
        tokio::time::timeout(timeout, fetch).await.unwrap_or_else(late)
    }

    /// Where an issuer has its keys.
    async fn discover(&self, issuer: &str) -> Result<String, String> {
        let url = Origin::discovery(issuer);
        let text = self.get(&url).await?;
        let said: serde_json::Value =
            serde_json::from_str(&text).map_err(|error| format!("what {url} answers is no JSON: {error}"))?;
        let text = |name: &str| said.get(name).and_then(serde_json::Value::as_str);
        // OpenID Connect Discovery 1.0 §4.3.
        if text("issuer") != Some(issuer) {
            return Err(format!("{url} speaks for another issuer"));
        }
        let keys = text("jwks_uri").ok_or_else(|| format!("{url} names no jwks_uri"))?;
        check_url(keys).map_err(|wrong| format!("the jwks_uri that {url} names {wrong}"))?;
        Ok(keys.to_owned())
    }

    async fn get(&self, url: &str) -> Result<String, String> {
        let uri: Uri = url.parse().map_err(|_| format!("{url:?} is no URL"))?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let is_tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let stream = self.connect(&host, port).await?;
        if !is_tls {
            return ask(stream, &uri).await;
        }
        let name = ServerName::try_from(host.clone()).map_err(|_| format!("{host:?} is no name of a server"))?;
        let stream = self.tls.connect(name, stream).await.map_err(|error| format!("{host}: TLS failed: {error}"))?;
        ask(stream, &uri).await
    }

    /// To the first of the host's addresses that may be asked and answers. Names are looked up once: what was checked is dialled.
    async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, String> {
        self.reach.check(host)?;
        let found = tokio::net::lookup_host((host, port)).await;
        let found = found.map_err(|error| format!("{host} cannot be looked up: {error}"))?;
        let mut last = String::new();
        for address in self.reach.allowed(host, found.map(|address| address.ip()))? {
            match TcpStream::connect(SocketAddr::new(address, port)).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = format!("{host} ({address}) port {port} cannot be connected: {error}"),
            }
        }
        Err(last)
    }
}

async fn ask<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, uri: &Uri) -> Result<String, String> {
    let failed = |error: hyper::Error| format!("{uri}: {error}");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    // Ends with the sender.
    tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let host = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, "fairway")
        .body(Empty::<Bytes>::new())
        .map_err(|error| format!("{uri} cannot be asked for: {error}"))?;
    let response = sender.send_request(request).await.map_err(failed)?;
    if response.status() != StatusCode::OK {
        return Err(format!("{uri} answers {}", response.status()));
    }
    let body = Limited::new(response.into_body(), MAXIMUM_BYTES).collect().await;
    let body = body.map_err(|error| format!("{uri}: {error}"))?.to_bytes();
    String::from_utf8(body.into()).map_err(|_| format!("what {uri} answers is no text"))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use fairway_core::io::tls as provider;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn key(id: &str) -> String {
        format!(r#"{{"crv":"P-256","kid":"{id}","kty":"EC","x":"AQ","y":"Ag"}}"#)
    }

    fn set(keys: &[&str]) -> String {
        format!(r#"{{"keys":[{}]}}"#, keys.join(","))
    }

    fn answer(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
    }

    /// A server that gives these answers, one a connection, and then hangs up. Comes with what it has been asked for.
    async fn server(answers: impl IntoIterator<Item = String>) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mut answers, asked) = (VecDeque::from_iter(answers), Arc::<Mutex<Vec<String>>>::default());
        let heard = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match socket.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => break,
                    }
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                heard.lock().unwrap().push(head.split(' ').nth(1).unwrap_or_default().to_owned());
                let Some(answer) = answers.pop_front() else { continue };
                let _ = socket.write_all(answer.as_bytes()).await;
            }
        });
        (address, asked)
    }

    fn fetcher(hosts: &str) -> Fetcher {
        Fetcher::new(hosts.parse().unwrap(), provider::provider()).unwrap()
    }

    #[tokio::test]
    async fn keys_come_rotate_are_withdrawn_and_garbage_is_none() {
        type Expected = Result<Option<String>, &'static str>;
        let (old, new) = (key("old"), key("new"));
        let huge = format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(MAXIMUM_BYTES));
        let many = set(&[key("a").as_str(); 101]);
        // What the server answers, and what comes of it: keys, that there are none, or what is wrong.
        let rows: Vec<(&str, String, Expected)> = vec![
            ("keys", answer("200 OK", &set(&[&old])), Ok(Some(set(&[&old])))),
            ("both while they rotate", answer("200 OK", &set(&[&old, &new])), Ok(Some(set(&[&old, &new])))),
            ("the new one", answer("200 OK", &set(&[&new])), Ok(Some(set(&[&new])))),
            ("no keys any more", answer("200 OK", r#"{"keys":[]}"#), Ok(None)),
            ("none that checks signatures", answer("200 OK", r#"{"keys":[{"kty":"oct","k":"AQ"}]}"#), Ok(None)),
            ("no JSON", answer("200 OK", "<html>"), Err("is no JSON")),
            ("nothing", answer("200 OK", ""), Err("is no JSON")),
            ("no list", answer("200 OK", "{}"), Err("has no list of keys")),
            ("keys that are no list", answer("200 OK", r#"{"keys":{}}"#), Err("has no list of keys")),
            ("too many", answer("200 OK", &many), Err("has 101 keys")),
            ("too long", answer("200 OK", &huge), Err("length limit exceeded")),
            ("an error with keys", answer("500 Internal Server Error", &set(&[&key("a")])), Err("answers 500")),
            ("no such page", answer("404 Not Found", r#"{"keys":[]}"#), Err("answers 404")),
            ("elsewhere", answer("302 Found\r\nlocation: http://127.0.0.1/", ""), Err("answers 302")),
            ("cut off", answer("200 OK", &set(&[&key("a")])).replace("length: ", "length: 9"), Err("")),
            ("no HTTP", "hello\r\n\r\n".to_owned(), Err("")),
        ];
        let (address, _) = server(rows.iter().map(|(_, answer, _)| answer.clone())).await;
        let (fetcher, origin) = (fetcher("127.0.0.1"), Origin::Keys(format!("http://{address}/keys")));
        for (name, _, expected) in rows {
            let found = fetcher.keys(&origin, PATIENCE).await;
            match (found, expected) {
                (Ok(Answer::Keys(keys)), Ok(Some(expected))) => assert_eq!(keys, expected, "{name}"),
                (Ok(Answer::Withdrawn(_)), Ok(None)) => {}
                (Err(wrong), Err(expected)) => assert!(wrong.contains(expected), "{name}: {wrong}"),
                (found, expected) => panic!("{name}: {found:?}, not {expected:?}"),
            }
        }
        let gone = fetcher.keys(&origin, PATIENCE).await;
        assert!(gone.is_err(), "a server that hangs up has withdrawn nothing: {gone:?}");
    }

    #[tokio::test]
    async fn an_issuer_says_where_its_keys_are_and_speaks_for_itself_alone() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let elsewhere = listener.local_addr().unwrap();
        drop(listener);
        let found =
            |issuer: &str, keys: &str| answer("200 OK", &format!(r#"{{"issuer":"{issuer}","jwks_uri":"{keys}"}}"#));
        let issuer = |address: SocketAddr| format!("http://{address}/realm/");
        let rows = |address: SocketAddr| {
            let (own, keys) = (issuer(address), format!("http://{address}/keys"));
            [
                (vec![found(&own, &keys), answer("200 OK", &set(&[&key("a")]))], Ok(())),
                (vec![found("http://other/", &keys)], Err("speaks for another issuer")),
                (vec![answer("200 OK", &format!(r#"{{"issuer":"{own}"}}"#))], Err("names no jwks_uri")),
                (vec![found(&own, "file:///etc/passwd")], Err("the jwks_uri that")),
                (vec![found(&own, &format!("http://localhost:{}/", elsewhere.port()))], Err("is not among the hosts")),
                (vec![answer("200 OK", "<html>")], Err("is no JSON")),
            ]
        };
        for row in 0..rows(elsewhere).len() {
            // A listener first, so that what it says can name it.
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            let address = listener.local_addr().unwrap();
            let (answers, expected) = rows(address)[row].clone();
            tokio::spawn(async move {
                for answer in answers {
                    let Ok((mut socket, _)) = listener.accept().await else { return };
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = socket.read_u8().await else { return };
                        head.push(byte);
                    }
                    let _ = socket.write_all(answer.as_bytes()).await;
                }
            });
            let found = fetcher("127.0.0.1").keys(&Origin::Issuer(issuer(address)), PATIENCE).await;
            match (found, expected) {
                (Ok(Answer::Keys(keys)), Ok(())) => assert_eq!(keys, set(&[&key("a")])),
                (Err(wrong), Err(expected)) => assert!(wrong.contains(expected), "{wrong}"),
                (found, expected) => panic!("{found:?}, not {expected:?}"),
            }
        }
    }

    #[tokio::test]
    async fn nobody_is_asked_beyond_reach_and_none_for_ever() {
        let (address, asked) = server([answer("200 OK", &set(&[&key("a")]))]).await;
        let origin = Origin::Keys(format!("http://{address}/keys"));
        for hosts in ["none", "*", "other.example"] {
            let refused = fetcher(hosts).keys(&origin, PATIENCE).await.unwrap_err();
            assert!(refused.contains("--jwks-hosts"), "{hosts}: {refused}");
        }
        assert!(asked.lock().unwrap().is_empty(), "nobody was asked");
        let silent = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let origin = Origin::Keys(format!("http://{}/keys", silent.local_addr().unwrap()));
        let late = fetcher("127.0.0.1").keys(&origin, Duration::ZERO).await.unwrap_err();
        assert!(late.contains("did not answer within"), "{late}");
    }
}
