//! A terminal with the binary in it, as a person has it.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    process::{Child, Command, ExitStatus},
    sync::{Arc, Mutex},
};

use rustix::{
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

use crate::stage::eventually;

pub(crate) struct Terminal {
    near: File,
    child: Child,
    shown: Arc<Mutex<String>>,
}

impl Terminal {
    /// Starts the command in a terminal of so many rows and columns.
    pub(crate) fn start(mut command: Command, rows: u16, columns: u16) -> Self {
        let near = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&near).unwrap();
        unlockpt(&near).unwrap();
        tcsetwinsize(&near, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let name = ptsname(&near, Vec::new()).unwrap().into_string().unwrap();
        let far = OpenOptions::new().read(true).write(true).open(name).unwrap();
        command.stdin(far.try_clone().unwrap()).stdout(far.try_clone().unwrap()).stderr(far);
        let child = command.spawn().unwrap();
        // What it holds would keep the terminal open.
        drop(command);
        let (near, shown) = (File::from(near), Arc::new(Mutex::new(String::new())));
        let (mut reader, seen) = (near.try_clone().unwrap(), Arc::clone(&shown));
        // Ends when the last program has left the terminal.
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                seen.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Self { near, child, shown }
    }

    pub(crate) fn shown(&self) -> String {
        self.shown.lock().unwrap().clone()
    }

    pub(crate) async fn until(&self, text: &str) {
        eventually(text, || self.shown().contains(text)).await;
    }

    /// Waits for a question, then answers it.
    pub(crate) async fn answer(&mut self, question: &str, answer: &str) {
        self.until(question).await;
        self.near.write_all(format!("{answer}\n").as_bytes()).unwrap();
    }

    pub(crate) fn interrupt(&self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
    }

    pub(crate) async fn end(mut self) -> (ExitStatus, String) {
        let mut status = None;
        let ended = async {
            while status.is_none() {
                status = self.child.try_wait().unwrap();
                crate::stage::pause().await;
            }
        };
        tokio::time::timeout(crate::stage::PATIENCE, ended).await.expect("the command ends");
        (status.unwrap(), self.shown())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Fails when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
