//! Uploads that an HTTP/2 upstream stops taking: they end when nobody wants them any more, and until then they
//! count as requests of their connection.

use tokio::net::TcpListener;

use crate::{
    frames::{
        self, CANCEL, DATA, END_HEADERS, END_STREAM, Frame, HEADERS, RST_STREAM, Reader, SETTINGS,
        WINDOW_UPDATE, Writer, field, frame, setting,
    },
    stage::{PATIENCE, Plan, Stage},
};

/// More than the windows that an upstream opens without a word, and less than is recorded.
const UPLOAD: usize = 300_000;

/// A gateway in front of an HTTP/2 upstream that is played by the test.
async fn played() -> (TcpListener, Stage) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let route = format!("r: {{upstream: {{url: \"{url}\", http2: prior_knowledge}}, profile: account}}");
    let stage = Plan::default().more("workers: 1").routes(&route).start().await;
    stage.ready().await;
    (listener, stage)
}

fn over_http2() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().http2_prior_knowledge().timeout(PATIENCE).build().unwrap()
}

/// A head that answers a request.
fn answer(request: &Frame, status: &str, flags: u8) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, request.stream, &field(":status", status))
}

fn is_head(frame: &Frame) -> bool {
    frame.kind == HEADERS
}

fn is_reset(stream: u32) -> impl Fn(&Frame) -> bool {
    move |frame| frame.kind == RST_STREAM && frame.stream == stream
}

/// Opens a window of a stream, or of the connection, by a MiB.
fn window(stream: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &0x10_0000_u32.to_be_bytes())
}

/// The first request, which has an upload, and the ends of the connection it came over.
async fn accept(listener: &TcpListener) -> (Reader, Writer, Frame) {
    let (mut reader, writer) = frames::accept(listener).await;
    let request = reader.find(is_head).await.unwrap();
    (reader, writer, request)
}

#[tokio::test]
async fn the_upload_of_a_refused_request_ends_when_another_is_answered() {
    let (listener, stage) = played().await;
    let asking = stage.post("/v1/orders", vec![b'x'; UPLOAD]);
    let serving = async {
        let (mut reader, mut writer, first) = accept(&listener).await;
        // As early as may be, without a word about the rest of the body.
        assert!(writer.send(&answer(&first, "401", END_STREAM)).await);
        let second = reader.find(is_head).await.unwrap();
        assert!(writer.send(&answer(&second, "204", END_STREAM)).await);
        let reset = reader.find(is_reset(first.stream)).await.unwrap();
        assert_eq!(reset.error(), Some(CANCEL));
    };
    let (answered, ()) = tokio::join!(asking, serving);
    assert_eq!(answered.status(), 204);
}

#[tokio::test]
async fn the_upload_of_a_caller_who_has_left_ends() {
    let (listener, stage) = played().await;
    let asking = over_http2().post(stage.url("/v1/orders")).body(vec![b'x'; UPLOAD]).send();
    let serving = async {
        let (reader, mut writer, request) = accept(&listener).await;
        assert!(writer.send(&answer(&request, "200", 0)).await);
        (reader, writer, request)
    };
    let (answered, (mut reader, _writer, request)) = tokio::join!(asking, serving);
    // With it goes its stream.
    drop(answered.unwrap());
    let reset = reader.find(is_reset(request.stream)).await.unwrap();
    assert_eq!(reset.error(), Some(CANCEL));
}

/// RFC 9113 §8.1: an upstream may answer first and read the rest of the request after that.
#[tokio::test]
async fn an_upload_that_was_answered_early_goes_on_while_it_is_taken() {
    let (listener, stage) = played().await;
    let asking = over_http2().post(stage.url("/v1/orders")).body(vec![b'x'; UPLOAD]).send();
    let serving = async {
        let (reader, mut writer, request) = accept(&listener).await;
        assert!(writer.send(&answer(&request, "413", END_STREAM)).await);
        (reader, writer, request)
    };
    let (answered, (mut reader, mut writer, request)) = tokio::join!(asking, serving);
    let answered = answered.unwrap();
    assert_eq!(answered.status(), 413);
    assert_eq!(answered.bytes().await.unwrap(), "");
    assert!(writer.send(&[window(0), window(request.stream)].concat()).await);
    let mut taken = 0;
    loop {
        let frame = reader.next().await.unwrap();
        assert_ne!(frame.kind, RST_STREAM, "given up after {taken} bytes");
        taken += if frame.kind == DATA { frame.payload.len() } else { 0 };
        if frame.kind == DATA && frame.flags & END_STREAM != 0 {
            break;
        }
    }
    assert_eq!(taken, UPLOAD);
}

#[tokio::test]
async fn an_upload_that_stands_still_keeps_no_other_request_waiting() {
    let (listener, stage) = played().await;
    let asking = stage.post("/v1/orders", vec![b'x'; UPLOAD]);
    let serving = async {
        let (mut reader, mut writer) = frames::accept(&listener).await;
        // One request at a time.
        assert!(writer.send(&frame(SETTINGS, 0, 0, &setting(3, 1))).await);
        let request = reader.find(is_head).await.unwrap();
        assert!(writer.send(&answer(&request, "413", END_STREAM)).await);
        (reader, writer)
    };
    let (answered, _first) = tokio::join!(asking, serving);
    assert_eq!(answered.status(), 413);
    let asking = stage.get("/v1/orders");
    let serving = async {
        let (_reader, mut writer, request) = accept(&listener).await;
        assert!(writer.send(&answer(&request, "204", END_STREAM)).await);
    };
    let (answered, ()) = tokio::join!(asking, serving);
    assert_eq!(answered.status(), 204);
}
