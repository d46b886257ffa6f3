//! The agent's side: embeds the broker, and prints what collectors publish. Run `collector` in another terminal.

use daemoneye_eventbus::{DaemoneyeBroker, DaemoneyeEventBus, EventRef, RecvError};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "/tmp/daemoneye-example.sock".into());
    let bus = DaemoneyeEventBus::from_broker(DaemoneyeBroker::new(&path).await?).await?;
    let mut events = bus.subscription(&["events.process.#"]).await?;
    println!("listening at {path}, until Ctrl-C");

    loop {
        let received = tokio::select! {
            received = events.recv() => received,
            _ = tokio::signal::ctrl_c() => break,
        };
        match received {
            Some(Ok(batch)) => {
                let newest = batch.view().iter().last();
                let Some(EventRef::Process(process)) = newest else { continue };
                let (from, topic, events) = (batch.publisher(), batch.topic(), batch.len());
                println!(
                    "{from} on {topic}: {events} events, the last is {} {:?}",
                    process.pid(),
                    process.name()
                );
            }
            Some(Err(RecvError::Lagged(events))) => println!("{events} events were lost"),
            Some(Err(error)) => println!("{error}"),
            None => break,
        }
    }
    Ok(())
}
