//! Connections that break off: what was said before arrives, the break itself too, and a stall hides none.

use std::io::ErrorKind;

use tokio::time::timeout;

use super::*;
use crate::io::socket::reset_on_close;

/// Rounds of what used to go wrong by chance.
const ROUNDS: usize = 50;

/// Generous: only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Answers before it has read everything and closes: its kernel sends the answer, and then a reset.
async fn answer_early(mut application: TcpStream) {
    application.read_exact(&mut [0; 1_000]).await.unwrap();
    application.write_all(&[b'!'; 500]).await.unwrap();
}

/// Uploads more than is read, and hears the answer and how it ended.
async fn upload(application: TcpStream) -> (usize, std::io::Result<usize>) {
    let (mut read, mut write) = application.into_split();
    let upload = tokio::spawn(async move {
        // It is cut off somewhere.
        let _ = write.write_all(&[b'?'; 200_000]).await;
        write
    });
    let mut answer = vec![0; 500];
    let mut heard = 0;
    let ending = loop {
        match read.read(&mut answer[heard..]).await {
            Ok(0) => break Ok(0),
            Ok(length) => heard += length,
            Err(error) => break Err(error),
        }
        if heard == answer.len() {
            break read.read(&mut [0; 1]).await;
        }
    };
    let _write = upload.await.unwrap();
    (heard, ending)
}

fn assert_heard((heard, ending): (usize, std::io::Result<usize>)) {
    assert_eq!(heard, 500, "the answer was lost: {ending:?}");
    assert_eq!(ending.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn what_a_server_said_before_it_broke_off_arrives_through_a_tunnel() {
    let certificates = MemoryAuthority::new().certificates();
    let server = serve(&certificates, "cart", |incoming| {
        let mut stream = incoming.accept(HeaderMap::new()).unwrap();
        tokio::spawn(async move {
            let (application, mut ours) = tcp_pair().await;
            tokio::spawn(answer_early(application));
            let _ = copy::with_tunnel(&mut ours, &mut stream, &Limits::default(), &Count::default()).await;
        });
    })
    .await;
    for _ in 0..ROUNDS {
        let (application, copy) = tunnelled(&certificates, &server).await;
        assert_heard(timeout(PATIENCE, upload(application)).await.unwrap());
        assert!(copy.await.unwrap().0.is_err());
    }
}

#[tokio::test]
async fn what_a_server_said_before_it_broke_off_arrives_without_a_tunnel() {
    for _ in 0..ROUNDS {
        let ((client, mut near), (mut far, server)) = (tcp_pair().await, tcp_pair().await);
        let copy =
            tokio::spawn(async move { copy::plain(&mut near, &mut far, &Limits::default(), &Count::default()).await });
        tokio::spawn(answer_early(server));
        assert_heard(timeout(PATIENCE, upload(client)).await.unwrap());
        assert!(copy.await.unwrap().is_err());
    }
}

/// Writes until nothing is taken any more, and breaks off.
async fn stall_and_break_off(mut application: TcpStream) {
    let chunk = vec![b'?'; 64 * 1024];
    while timeout(Duration::from_millis(200), application.write_all(&chunk)).await.is_ok() {}
    reset_on_close(&application);
}

#[tokio::test]
async fn a_reset_is_noticed_while_the_other_side_takes_nothing() {
    let certificates = MemoryAuthority::new().certificates();
    let (hold, held) = tokio::sync::mpsc::unbounded_channel();
    let server = serve(&certificates, "cart", move |incoming| {
        let _ = hold.send(incoming.accept(HeaderMap::new()).unwrap());
    })
    .await;
    let (application, copy) = tunnelled(&certificates, &server).await;
    stall_and_break_off(application).await;
    let (result, _) = timeout(PATIENCE, copy).await.expect("the reset is noticed").unwrap();
    assert!(matches!(result, Err(CopyError::Application(_))), "{result:?}");
    drop(held);

    let ((client, mut near), (mut far, mut server)) = (tcp_pair().await, tcp_pair().await);
    let copy =
        tokio::spawn(async move { copy::plain(&mut near, &mut far, &Limits::default(), &Count::default()).await });
    stall_and_break_off(client).await;
    let result = timeout(PATIENCE, copy).await.expect("the reset is noticed").unwrap();
    assert!(matches!(result, Err(CopyError::Application(_))), "{result:?}");
    let mut rest = Vec::new();
    assert_eq!(server.read_to_end(&mut rest).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}
