//! Tests of a socket against a plain TCP client, byte by byte.

use std::time::Duration;

use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{super::frame::tests::client_frame, *};

async fn pair() -> (Socket, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (Socket::new(listener.accept().await.unwrap().0, Bytes::new(), 1_000), client)
}

#[tokio::test]
async fn early_and_joined_messages_are_read_in_order() {
    let (socket, mut client) = pair().await;
    let first = client_frame(0x81, b"first");
    let (early, late) = first.split_at(3);
    let mut socket = Socket { unread: Bytes::copy_from_slice(early), ..socket };
    let rest = [late, &client_frame(0x81, b"second"), &client_frame(0x89, b""), &client_frame(0x82, b"x")];
    client.write_all(&rest.concat()).await.unwrap();
    for text in ["first", "second"] {
        assert_eq!(socket.message().await.unwrap(), Message::Text(text.to_owned()));
    }
    assert_eq!(socket.message().await.unwrap(), Message::Ping(Vec::new()));
    assert_eq!(socket.message().await.unwrap(), Message::Binary(b"x".to_vec()));
    assert!(socket.unread.is_empty());
    drop(client);
    assert!(matches!(socket.message().await, Err(ReadError::Lost(_))));
}

#[tokio::test]
async fn blocked_bytes_wait_and_keep_their_order() {
    let (mut socket, mut client) = pair().await;
    let mut count = 0;
    while !socket.is_blocked() {
        socket.write(|frames| frame::text(frames, [&"x".repeat(1 << 20)])).unwrap();
        count += 1;
    }
    socket.write(|frames| frame::text(frames, ["last"])).unwrap();
    assert!(timeout(Duration::from_millis(50), socket.flush()).await.is_err(), "the client does not read");
    let reads = async move {
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes).await.unwrap();
        bytes
    };
    let writes = async move {
        socket.flush().await.unwrap();
        assert_eq!(socket.unwritten.capacity(), 0, "an idle socket holds no buffer");
    };
    let (bytes, ()) = tokio::join!(reads, writes);
    assert_eq!(bytes.len(), count * ((1 << 20) + 10) + 6);
    assert!(bytes.ends_with(b"\x81\x04last"));
}

#[tokio::test]
async fn close_reaches_peer_that_still_sends() {
    let (mut socket, mut client) = pair().await;
    client.write_all(&client_frame(0x81, &[b'x'; 5_000])).await.unwrap();
    assert!(matches!(socket.message().await, Err(ReadError::Frame(FrameError::TooBig))));
    let reads = async move {
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes).await.unwrap();
        bytes
    };
    let close = Close::new(1009, "");
    let (bytes, closed) = tokio::join!(reads, socket.close(&close, false));
    assert_eq!(bytes, b"\x88\x02\x03\xf1");
    closed.unwrap();
}
