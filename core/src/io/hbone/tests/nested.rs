//! A tunnel inside a tunnel, over a gateway made of our own server.

use super::*;
use crate::io::hbone::client::Opened;
use crate::io::hbone::headers::FORWARDED_NETWORK;

/// A gateway that carries whatever it is asked for to `behind`, byte for byte.
async fn gateway(certificates: &Certificates, behind: SocketAddr) -> (Server, Arc<std::sync::Mutex<Vec<String>>>) {
    let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
    let note = Arc::clone(&asked);
    let server = serve(certificates, "gateway", move |incoming| {
        note.lock().unwrap().push(incoming.authority().unwrap().to_owned());
        tokio::spawn(async move {
            let Ok(mut onward) = TcpStream::connect(behind).await else {
                return incoming.refuse(crate::reason::Reason::NoHealthyUpstream);
            };
            let mut stream = incoming.accept(HeaderMap::new()).unwrap();
            let _ = copy::with_tunnel(&mut onward, &mut stream, &Limits::default(), &Count::default()).await;
        });
    })
    .await;
    (server, asked)
}

async fn open(pool: &Pool, gateway: &Server, accepted: &str) -> Result<Opened, TunnelError> {
    let outer = ConnectRequest { authority: "cart.shop.svc.cluster.local:80".into(), headers: HeaderMap::new() };
    let mut inner = outer.clone();
    inner.headers.insert(FORWARDED_NETWORK, "west".parse().unwrap());
    pool.open_through(&key(gateway.address, "gateway"), &outer, &[identity(accepted)], &inner).await
}

#[tokio::test]
async fn the_outer_tunnel_is_shared_and_the_inner_one_is_not() {
    let certificates = MemoryAuthority::new().certificates();
    let cart = serve(&certificates, "cart", |incoming| {
        assert_eq!(incoming.authority(), Some("cart.shop.svc.cluster.local:80"));
        assert_eq!(incoming.headers().get(FORWARDED_NETWORK).unwrap(), "west");
        echo(incoming);
    })
    .await;
    let (gateway, asked) = gateway(&certificates, cart.address).await;
    let pool = pool(&certificates);
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut opened = open(&pool, &gateway, "cart").await.unwrap();
        assert_eq!(opened.peer_identity, Some(identity("cart")), "proven through the gateway, not by it");
        round_trip(&mut opened.stream, b"across").await;
        streams.push(opened);
    }
    assert_eq!(*asked.lock().unwrap(), ["cart.shop.svc.cluster.local:80"; 3]);
    assert_eq!(gateway.connections.load(Ordering::SeqCst), 1);
    assert_eq!(cart.connections.load(Ordering::SeqCst), 3);
    // More than all the buffers on the way; then a half-close both ways.
    let mut stream = streams.remove(0).stream;
    let TunnelStream { sender, receiver } = &mut stream;
    let send = async {
        for _ in 0..64 {
            sender.send_all(Bytes::from(vec![7; 100_000])).await.unwrap();
        }
        sender.finish().unwrap();
    };
    let receive = async {
        let mut count = 0;
        while let Some(bytes) = receiver.receive().await.unwrap() {
            receiver.consumed(bytes.len()).unwrap();
            count += bytes.len();
        }
        count
    };
    assert_eq!(tokio::join!(send, receive).1, 6_400_000);
}

#[tokio::test]
async fn whoever_is_behind_the_gateway_must_be_the_one_that_was_meant() {
    let certificates = MemoryAuthority::new().certificates();
    let cart = serve(&certificates, "mallory", echo).await;
    let (gateway, _) = gateway(&certificates, cart.address).await;
    let refused = open(&pool(&certificates), &gateway, "cart").await.err().unwrap();
    let TunnelError::Inner { gateway: at, source } = &refused else { panic!("{refused}") };
    assert_eq!(*at, gateway.address);
    assert!(matches!(**source, TunnelError::PeerRefused { .. }), "{refused}");
    assert!(refused.to_string().starts_with("behind the gateway at 127.0.0.1:"), "{refused}");
}

#[tokio::test]
async fn the_gateway_must_be_the_one_that_was_meant() {
    let certificates = MemoryAuthority::new().certificates();
    let cart = serve(&certificates, "cart", echo).await;
    let refused = open(&pool(&certificates), &cart, "cart").await.err().unwrap();
    assert!(matches!(refused.cause(), TunnelError::PeerRefused { .. }), "{refused}");
}

#[tokio::test]
async fn a_gateway_that_cannot_go_on_says_so() {
    let certificates = MemoryAuthority::new().certificates();
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (gateway, _) = gateway(&certificates, gone).await;
    let refused = open(&pool(&certificates), &gateway, "cart").await.err().unwrap();
    assert!(matches!(refused, TunnelError::Refused { status: StatusCode::SERVICE_UNAVAILABLE, .. }), "{refused}");
}

#[tokio::test]
async fn a_reset_behind_the_gateway_reaches_the_near_end() {
    let certificates = MemoryAuthority::new().certificates();
    let cart = serve(&certificates, "cart", |incoming| {
        let mut stream = incoming.accept(HeaderMap::new()).unwrap();
        tokio::spawn(async move {
            stream.receiver.receive().await.unwrap();
            stream.abort();
        });
    })
    .await;
    let (gateway, _) = gateway(&certificates, cart.address).await;
    let mut opened = open(&pool(&certificates), &gateway, "cart").await.unwrap();
    opened.stream.sender.send_all(Bytes::from_static(b"x")).await.unwrap();
    let error = opened.stream.receiver.receive().await.unwrap_err();
    assert!(matches!(error, StreamError::Reset(Reason::CONNECT_ERROR)), "{error}");
}
