//! A collector: publishes the process table once a second. Run `agent` in another terminal first.

use std::{collections::HashMap, time::Duration};

use daemoneye_eventbus::{ConnectOptions, EventBusClient, ProcessEvent};
use sysinfo::{ProcessesToUpdate, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "/tmp/daemoneye-example.sock".into());
    let procmond = EventBusClient::connect(ConnectOptions::new("procmond").path(path)).await?;
    let mut publisher = procmond.publisher("events.process.batch").await?;
    let mut table = System::new();

    while procmond.is_connected() {
        table.refresh_processes(ProcessesToUpdate::All, true);
        let mut batch = publisher.batch();
        for process in table.processes().values() {
            batch.push(&ProcessEvent {
                pid: process.pid().as_u32(),
                name: process.name().to_string_lossy().into_owned(),
                command_line: None,
                executable_path: process.exe().map(|path| path.to_string_lossy().into_owned()),
                ppid: process.parent().map(|parent| parent.as_u32()),
                start_time: None,
                metadata: HashMap::new(),
            })?;
        }
        println!("{:?}", batch.publish());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Err(procmond.disconnected().await.into())
}
