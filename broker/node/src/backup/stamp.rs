//! Times in UTC as text, and the names of backups that are made of them.

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

/// `20261128T042114.123Z`: in the order of time, and good for file names.
pub(super) fn of_time(ms: u64) -> String {
    let (year, month, day) = date(ms / DAY_MS);
    let (hour, minute, second, milli) = time(ms % DAY_MS);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}.{milli:03}Z")
}

/// `2026-11-28T04:21:14Z`, for people.
pub(super) fn readable(ms: u64) -> String {
    let (year, month, day) = date(ms / DAY_MS);
    let (hour, minute, second, _) = time(ms % DAY_MS);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// When a backup of this name was made, in milliseconds since 1970; `None`: no backup has it.
pub(super) fn of_name(name: &str) -> Option<u64> {
    let rest = name.strip_prefix("warren-")?;
    let (cluster, stamp) = rest.rsplit_once('-')?;
    if cluster.is_empty() || cluster.len() > 255 || file_name(cluster) != cluster {
        return None;
    }
    parse(stamp)
}

/// A cluster's name as a part of a file's: what could mean something else is replaced.
pub(super) fn file_name(cluster: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '@' | '.' | '_' | '-');
    let replaced = cluster.chars().map(|c| if plain(c) { c } else { '_' });
    replaced.take(100).collect()
}

fn parse(stamp: &str) -> Option<u64> {
    let digits = |from: usize, to: usize| -> Option<u64> {
        let digits = stamp.get(from..to)?;
        digits
            .bytes()
            .all(|byte| byte.is_ascii_digit())
            .then_some(())?;
        digits.parse().ok()
    };
    let days = days_since_epoch(digits(0, 4)?, digits(4, 6)?, digits(6, 8)?)?;
    let hours = digits(9, 11)?;
    let ms = days * DAY_MS
        + hours * HOUR_MS
        + digits(11, 13)? * MINUTE_MS
        + digits(13, 15)? * 1000
        + digits(16, 19)?;
    // One spelling each, and no date that there is not.
    (of_time(ms) == stamp).then_some(ms)
}

fn time(ms: u64) -> (u64, u64, u64, u64) {
    let (hour, rest) = (ms / HOUR_MS, ms % HOUR_MS);
    (hour, rest / MINUTE_MS, rest % MINUTE_MS / 1000, rest % 1000)
}

/// The Gregorian date of a day since 1970. Years begin in March here, so that leap days are last;
/// 400 years have 146,097 days.
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = month_from_march % 12 + 3;
    let month = if month > 12 { month - 12 } else { month };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

fn days_since_epoch(year: u64, month: u64, day: u64) -> Option<u64> {
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = year - u64::from(month <= 2);
    let month_from_march = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc() {
        let cases = [
            (0, "19700101T000000.000Z"),
            (951_782_400_000, "20000229T000000.000Z"),
            (1_795_839_674_123, "20261128T042114.123Z"),
            (4_102_444_799_999, "20991231T235959.999Z"),
        ];
        for (ms, text) in cases {
            assert_eq!(of_time(ms), text);
            assert_eq!(parse(text), Some(ms));
        }
        assert_eq!(readable(1_795_839_674_123), "2026-11-28T04:21:14Z");
    }

    #[test]
    fn every_day_of_a_century_reads_back() {
        for days in 0..36_525 {
            let ms = days * DAY_MS + 12_345;
            assert_eq!(parse(&of_time(ms)), Some(ms));
        }
    }

    #[test]
    fn names_are_no_paths() {
        let good = "warren-rabbit@host-1.net-20261128T042114.123Z";
        assert_eq!(of_name(good), Some(1_795_839_674_123));
        let wrong = [
            "",
            "warren-20261128T042114.123Z",
            "warren--20261128T042114.123Z",
            "warren-../x-20261128T042114.123Z",
            "../warren-x-20261128T042114.123Z",
            "warren-x-20261128T042114.123Z/..",
            "warren-x-20260230T042114.123Z",
            "warren-x-20261128T242114.123Z",
            "warren-x-2026é128T042114.123Z",
            ".part-x-20261128T042114.123Z",
        ];
        for name in wrong {
            assert_eq!(of_name(name), None, "{name}");
        }
        assert_eq!(file_name("a b/c\u{e9}.d"), "a_b_c_.d");
    }
}
