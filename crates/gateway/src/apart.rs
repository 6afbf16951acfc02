//! Work on long bodies, away from the thread that serves them: what takes a millisecond there holds up the events of all its
//! streams. Short ones are worked on where they are, which costs less than to hand them over.

use std::{num::NonZero, thread};

use http::StatusCode;
use tokio::{sync::Semaphore, task::spawn_blocking};

use crate::error::Refusal;

/// What is long, in bytes: from here on, scan and hash chain alone take longer than two wakes across cores
/// (docs/decisions/0030-long-bodies.md has the figures).
const LONG: usize = 64 << 10;

/// Whether a body is long.
pub fn is_long(body: &[u8]) -> bool {
    body.len() >= LONG
}

/// The threads for such work. No more of it is done at a time than there are cores that serve nobody, one at least: more would
/// take the cores from those that serve.
pub struct Apart {
    /// Those that are free. Whoever holds them all holds up what is long, and nothing else.
    pub cores: Semaphore,
}

impl Apart {
    /// Beside so many threads that serve.
    pub fn new(serving: usize) -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        Self { cores: Semaphore::new(cores.saturating_sub(serving).max(1)) }
    }

    /// Does `work` while this thread serves others.
    ///
    /// # Errors
    /// 500 where it panicked.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
        // Nobody closes it.
        let _core = self.cores.acquire().await;
        spawn_blocking(work).await.map_err(|error| {
            tracing::error!(%error, "a long request could not be worked on");
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "api_error", "The request could not be worked on.")
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[tokio::test]
    async fn this_thread_goes_on_while_long_work_is_done() {
        let (open, gate) = channel();
        let apart = Apart::new(1);
        let long = apart.run(move || gate.recv());
        // On one thread: done here, the work would wait for ever for what comes after it.
        let (done, ()) = tokio::join!(long, async { open.send("opened").unwrap() });
        assert_eq!(done.unwrap(), Ok("opened"));
        assert!(apart.run(|| -> () { panic!("as a test may") }).await.is_err_and(|refusal| refusal.status == 500));
    }
}
