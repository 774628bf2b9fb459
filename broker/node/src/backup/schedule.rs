//! When backups are made: once when there is none, then every day at one time.

use std::sync::Arc;
use std::time::Duration;

use super::{Backups, DAY_MS};
use crate::config::TimeOfDay;

/// How often it is looked whether one is due: clocks are set, and duties move.
const PERIOD: Duration = Duration::from_secs(30);
/// How long after a failure the next attempt is made.
const RETRY_MS: u64 = 10 * 60_000;

/// Makes backups for as long as it is polled.
pub(crate) async fn run(backups: Arc<Backups>) {
    let mut period = tokio::time::interval(PERIOD);
    let mut not_before = 0;
    let mut last = newest(&backups).await;
    let Some(time) = backups.broker.config().backup_time else {
        return;
    };
    loop {
        period.tick().await;
        let now = backups.broker.lane().now().wall.0;
        if !backups.broker.is_on_duty() || now < not_before || now < due(last, time) {
            continue;
        }
        // Another node may have had the duty, and somebody may have asked for one.
        last = newest(&backups).await;
        if now < due(last, time) {
            continue;
        }
        let Ok(held) = backups.slot.take("a backup", "the schedule") else {
            // Whoever is at work is done soon.
            continue;
        };
        let worker = Arc::clone(&backups);
        let made = tokio::task::spawn_blocking(move || {
            let _held = held;
            worker.create()
        });
        match made.await {
            Ok(Ok(info)) => last = Some(info.created_ms),
            // It is in the log and the metrics.
            Ok(Err(_)) => not_before = now + RETRY_MS,
            // The node is stopping.
            Err(_) => return,
        }
    }
}

async fn newest(backups: &Arc<Backups>) -> Option<u64> {
    let backups = Arc::clone(backups);
    let newest = tokio::task::spawn_blocking(move || backups.newest_ms());
    newest.await.ok().flatten()
}

/// When the next one is due, in milliseconds since 1970: at once when there is none, else the first
/// time of the day after the last one.
fn due(last: Option<u64>, time: TimeOfDay) -> u64 {
    let Some(last) = last else {
        return 0;
    };
    let of_day = u64::from(time.minutes) * 60_000;
    let today = last / DAY_MS * DAY_MS + of_day;
    if today > last { today } else { today + DAY_MS }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_at_the_first_time_after_the_last() {
        let time = TimeOfDay { minutes: 120 };
        let two = 2 * 3_600_000;
        let day = |days: u64, ms: u64| days * DAY_MS + ms;
        assert_eq!(due(None, time), 0);
        assert_eq!(due(Some(day(9, 0)), time), day(9, two));
        assert_eq!(due(Some(day(9, two - 1)), time), day(9, two));
        // One that was made on time does not make the same moment due again.
        assert_eq!(due(Some(day(9, two)), time), day(10, two));
        assert_eq!(due(Some(day(9, two + 500)), time), day(10, two));
        // A node that was away at two makes one when it is back: what is due is past.
        assert!(due(Some(day(9, two + 500)), time) < day(12, 0));
    }
}
