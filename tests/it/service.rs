//! The gateway under a service manager: what it tells systemd.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    sync::{Arc, Mutex},
};

use crate::{
    process::Process,
    stage::{Stage, eventually},
};

/// The service manager's side of `NOTIFY_SOCKET`.
struct Manager {
    told: Arc<Mutex<Vec<String>>>,
    path: String,
}

impl Manager {
    fn start(stage: &Stage) -> Self {
        let path = stage.folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let told = Arc::<Mutex<Vec<String>>>::default();
        let heard = Arc::clone(&told);
        // Ends with the test's process: nobody can be made to stop listening to a datagram socket.
        std::thread::spawn(move || {
            let mut space = [0; 4096];
            while let Ok(length) = socket.recv(&mut space) {
                heard.lock().unwrap().push(String::from_utf8(space[..length].to_vec()).unwrap());
            }
        });
        Self { told, path: path.to_str().unwrap().to_owned() }
    }

    fn told(&self) -> Vec<String> {
        self.told.lock().unwrap().clone()
    }

    /// Without the signs of life.
    fn states(&self) -> Vec<String> {
        self.told().into_iter().filter(|told| told != "WATCHDOG=1\n").collect()
    }

    async fn run(&self, stage: &Stage, more: &[(&str, String)]) -> Process {
        let config = stage.folder.path().join("process.yaml");
        fs::write(&config, &stage.yaml).unwrap();
        let variables: Vec<_> = more.iter().cloned().chain([("NOTIFY_SOCKET", self.path.clone())]).collect();
        Process::start_with_variables(&config, &variables).await
    }
}

#[tokio::test]
async fn systemd_is_told_of_start_reload_and_stop() {
    let stage = Stage::start().await;
    let manager = Manager::start(&stage);
    let mut process = manager.run(&stage, &[]).await;
    eventually("it is ready", || !manager.told().is_empty()).await;
    assert_eq!(manager.told(), ["READY=1\nSTATUS=serving; routes: 1, profiles: 1\n"]);

    process.signal("-HUP");
    eventually("it has reloaded", || manager.told().len() >= 3).await;
    let told = manager.told();
    let (reloading, time) = told[1].trim_end().split_once('\n').unwrap();
    assert_eq!(reloading, "RELOADING=1");
    assert!(time.strip_prefix("MONOTONIC_USEC=").unwrap().parse::<u64>().unwrap() > 0, "{time}");
    assert_eq!(told[2], told[0]);

    fs::write(stage.folder.path().join("process.yaml"), "routes: {").unwrap();
    process.signal("-HUP");
    eventually("it has refused", || manager.told().len() >= 5).await;
    let last = manager.told()[4].clone();
    assert!(
        last.starts_with("READY=1\nSTATUS=serving; routes: 1, profiles: 1; the last reload was refused"),
        "{last}"
    );

    process.signal("-TERM");
    assert_eq!(process.end().await.code(), Some(0));
    eventually("it has said that it stops", || manager.told().len() >= 6).await;
    assert!(manager.told()[5].starts_with("STOPPING=1\nSTATUS="), "{:?}", manager.told());
    // Nobody asked for signs of life.
    assert_eq!(manager.states(), manager.told());
}

#[tokio::test]
async fn the_watchdog_hears_of_the_gateway_also_while_it_drains() {
    let stage = Stage::start().await;
    let manager = Manager::start(&stage);
    let mut process = manager.run(&stage, &[("WATCHDOG_USEC", "400000".to_owned())]).await;
    let beats = || manager.told().iter().filter(|told| *told == "WATCHDOG=1\n").count();
    eventually("it is alive", || beats() >= 3).await;
    stage.api.set_delay(std::time::Duration::from_secs(2));
    let slow = tokio::spawn(stage.http.get(process.url("/v1/orders")).send());
    stage.api.wait_for_requests(1).await;
    process.signal("-TERM");
    let is_stopping = || manager.told().iter().any(|told| told.starts_with("STOPPING=1"));
    eventually("it is stopping", is_stopping).await;
    let before = beats();
    eventually("it is alive", || beats() >= before + 2).await;
    assert_eq!(slow.await.unwrap().unwrap().status(), 200);
    assert_eq!(process.end().await.code(), Some(0));
}
