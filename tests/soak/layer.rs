//! Between the gateway and the API: connections that end in every way in which connections end.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// What a layer does to connections.
#[derive(Clone, Copy)]
pub(crate) enum Temper {
    /// Ends them, but never while a request is outstanding.
    Gentle,
    /// Ends and stalls them anywhere.
    Rough,
}

/// A running layer. Dropping it ends it.
pub(crate) struct Layer {
    address: SocketAddr,
    closed: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Layer {
    /// One in front of the API at `url`.
    pub(crate) async fn start(url: &str, temper: Temper) -> Self {
        let api: SocketAddr = url.strip_prefix("http://").unwrap().parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let closed = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&closed);
        let task = tokio::spawn(async move {
            loop {
                // Errors pass; running out of files would show as lost requests.
                let Ok((near, _)) = listener.accept().await else { continue };
                tokio::spawn(carry(near, api, fate(temper), Arc::clone(&count)));
            }
        });
        Self { address, closed, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many connections it has ended.
    pub(crate) fn closed(&self) -> u64 {
        self.closed.load(Ordering::Relaxed)
    }
}

impl Drop for Layer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How a connection ends. All do: those that nothing happens to would soon be the only ones in use.
#[derive(Clone, Copy)]
enum Fate {
    /// Closed, when nothing is outstanding.
    IdleClose(Idle),
    /// The same, but it goes on reading: the gateway's next request would get no answer.
    IdleHalfClose(Idle),
    /// Reset after so many bytes in both directions together.
    Reset(usize),
    /// Closed after so many bytes.
    Cut(usize),
    /// Nothing goes on after so many bytes, and nothing ends.
    Stall(usize),
}

/// When a connection is closed that nothing is outstanding on.
#[derive(Clone, Copy)]
struct Idle {
    /// After so many answers,
    answers: u32,
    /// and then so long after one of them. A request may just be on its way.
    time: Duration,
}

fn fate(temper: Temper) -> Fate {
    // Long enough for an answer that comes in two parts, which the API's answers do not.
    let time = Duration::from_micros(fastrand::u64(500..15_000));
    let idle = Idle { answers: fastrand::u32(1..12), time };
    // Often in the first request or its answer, else somewhere later.
    let bytes = if fastrand::bool() { fastrand::usize(1..4_000) } else { fastrand::usize(1..400_000) };
    match (temper, fastrand::u32(0..100)) {
        (Temper::Gentle, 0..60) | (Temper::Rough, 0..20) => Fate::IdleClose(idle),
        (Temper::Gentle, _) | (Temper::Rough, 20..40) => Fate::IdleHalfClose(idle),
        (Temper::Rough, 40..70) => Fate::Reset(bytes),
        (Temper::Rough, 70..95) => Fate::Cut(bytes),
        (Temper::Rough, _) => Fate::Stall(bytes),
    }
}

/// Carries bytes both ways until either side ends or the connection's fate comes true.
async fn carry(mut near: TcpStream, api: SocketAddr, fate: Fate, closed: Arc<AtomicU64>) {
    let Ok(mut far) = TcpStream::connect(api).await else { return };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (mut budget, idle) = match fate {
        Fate::Reset(bytes) | Fate::Cut(bytes) | Fate::Stall(bytes) => (bytes, None),
        Fate::IdleClose(idle) | Fate::IdleHalfClose(idle) => (usize::MAX, Some(idle)),
    };
    let (mut up, mut down) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    // Whether the last bytes were the API's: then nothing is outstanding, as it answers in one go.
    let (mut is_answered, mut answers) = (false, 0);
    while budget > 0 {
        let is_ripe = is_answered && idle.is_some_and(|idle| answers >= idle.answers);
        // A read that is dropped has read nothing.
        tokio::select! {
            read = near.read(&mut up) => {
                let Ok(length @ 1..) = read else { return };
                let length = length.min(budget);
                budget -= length;
                is_answered = false;
                if far.write_all(&up[..length]).await.is_err() {
                    return;
                }
            }
            read = far.read(&mut down) => {
                let Ok(length @ 1..) = read else { return };
                let length = length.min(budget);
                budget -= length;
                answers += u32::from(!is_answered);
                is_answered = true;
                if near.write_all(&down[..length]).await.is_err() {
                    return;
                }
            }
            () = tokio::time::sleep(idle.map_or(Duration::ZERO, |idle| idle.time)), if is_ripe => break,
        }
    }
    closed.fetch_add(1, Ordering::Relaxed);
    end(near, fate).await;
}

async fn end(mut near: TcpStream, fate: Fate) {
    match fate {
        Fate::IdleClose(_) | Fate::Cut(_) => {}
        Fate::Reset(_) => {
            let _ = socket2::SockRef::from(&near).set_linger(Some(Duration::ZERO));
        }
        Fate::IdleHalfClose(_) => {
            let _ = near.shutdown().await;
            let mut scratch = [0; 1024];
            let deaf = async { while matches!(near.read(&mut scratch).await, Ok(1..)) {} };
            let _ = tokio::time::timeout(Duration::from_secs(2), deaf).await;
        }
        // Longer than the gateway's own limits.
        Fate::Stall(_) => tokio::time::sleep(Duration::from_secs(10)).await,
    }
}
