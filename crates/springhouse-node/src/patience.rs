//! Jobs wait for a store elsewhere that is away: a failover, a restart, a full memory.

use crate::NodeError;
use springhouse_lake::Progress;
use std::time::Duration;

/// The stage of a job that waits, as its progress has it: of seconds waited, and how many it waits at most.
pub const WAITING_FOR_STORE: &str = "waiting for the online store";

/// Longest time that one job waits for the store, all its waits together.
const STORE_AWAY_MAX: Duration = Duration::from_secs(120);
/// The first wait; each is twice the one before, up to the longest.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LONGEST: Duration = Duration::from_secs(5);

/// What a job has left of it.
#[derive(Debug)]
pub(crate) struct Patience {
    waited: Duration,
    next: Duration,
    most: Duration,
}

impl Patience {
    /// A store in this process has nobody to come back.
    pub(crate) fn new(store_is_local: bool) -> Self {
        let most = if store_is_local { Duration::ZERO } else { STORE_AWAY_MAX };
        Self { waited: Duration::ZERO, next: RETRY_FIRST, most }
    }

    /// Waits for what may pass by itself: a store that doesn't answer, or one that has lost something and is brought back.
    ///
    /// # Errors
    /// The job's own, when it is another one, there was enough waiting, or the job was given up.
    pub(crate) async fn wait_after(
        &mut self,
        error: NodeError,
        progress: &dyn Progress,
    ) -> Result<(), NodeError> {
        let waited = self.waited.as_secs();
        let Some(wait) = self.wait_for(error.code).filter(|_| !progress.is_cancelled()) else {
            return Err(error);
        };
        let wait_ms = wait.as_millis();
        tracing::warn!(%error, wait_ms, "the job waits for the online store, and goes on where it was");
        progress.report(WAITING_FOR_STORE, waited, self.most.as_secs());
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// How long to wait after an error with this code, if at all.
    fn wait_for(&mut self, code: &str) -> Option<Duration> {
        let may_pass = matches!(code, "store_unavailable" | "store_lost");
        if !may_pass || self.waited >= self.most {
            return None;
        }
        let wait = self.next;
        self.waited += wait;
        self.next = (wait * 2).min(RETRY_LONGEST);
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_elsewhere_is_waited_for_and_not_for_ever() {
        let mut patience = Patience::new(false);
        assert_eq!(patience.wait_for("file_corrupt"), None);
        let waits: Vec<_> = std::iter::from_fn(|| patience.wait_for("store_lost")).collect();
        assert!(waits.is_sorted());
        let all = waits.iter().sum();
        assert!((STORE_AWAY_MAX..STORE_AWAY_MAX + RETRY_LONGEST).contains(&all), "{waits:?}");
        assert_eq!(patience.wait_for("store_unavailable"), None);
        assert_eq!(Patience::new(true).wait_for("store_unavailable"), None);
    }
}
