//! The gateway by itself, without Python: `trunkline-gateway CONFIG.json`. SIGTERM and SIGINT drain it.

use std::{process::ExitCode, thread};

use tokio::signal::unix::{SignalKind, signal};
use trunkline_gateway::{config::Config, logging, server::Server};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let path = std::env::args().nth(1).ok_or("usage: trunkline-gateway CONFIG.json")?;
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    logging::start();
    let server = Server::bind(Config::parse(&text)?)?;
    let stop = server.stopper();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
            stop.stop();
            Ok::<_, std::io::Error>(())
        })
    });
    server.serve().map_err(|error| error.to_string())
}
