//! Days of PKCS #11 as times. A key can be used from the beginning of its start date to the end of its end date, both in UTC.

use std::time::Duration;

use cryptoki::types::Date;

use super::error::Pkcs11Error;

const DAY: u64 = 24 * 60 * 60;

/// From when a key with this start date can be used, as time since the Unix epoch.
pub(super) fn start(date: &Date) -> Result<Option<Duration>, Pkcs11Error> {
    Ok(day(date)?.map(|day| Duration::from_secs(day * DAY)))
}

/// From when a key with this end date can't be used, as time since the Unix epoch.
pub(super) fn end(date: &Date) -> Result<Option<Duration>, Pkcs11Error> {
    Ok(day(date)?.map(|day| Duration::from_secs((day + 1) * DAY)))
}

/// Which day since the Unix epoch; None where no date is set. A day before it counts as its first.
fn day(date: &Date) -> Result<Option<u64>, Pkcs11Error> {
    let parts = [date.year.as_slice(), &date.month, &date.day];
    if parts.iter().all(|part| part.iter().all(|b| matches!(b, 0 | b' ' | b'0'))) {
        return Ok(None);
    }
    let number = |text: &[u8]| {
        let digits = text.iter().all(u8::is_ascii_digit).then(|| std::str::from_utf8(text).ok()).flatten();
        digits.and_then(|text| text.parse::<i64>().ok())
    };
    let [Some(year), Some(month @ 1..=12), Some(day @ 1..=31)] = parts.map(number) else {
        return Err(Pkcs11Error::Malformed { why: "a key's date that is none".into() });
    };
    // Years that begin in March end with the leap day; of the Gregorian calendar, 400 years are 146,097 days.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let days = days + (153 * month + 2) / 5 + day - 1;
    Ok(Some(u64::try_from(days - 719_468).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Result<Option<u64>, Pkcs11Error> {
        day(&Date::new_from_str_slice(&text[..4], &text[4..6], &text[6..]).unwrap())
    }

    #[test]
    fn days_are_counted_as_the_calendar_has_them() {
        for (date, day) in [
            ("19700101", 0),
            ("19700301", 59),
            ("20000229", 11_016),
            ("20000301", 11_017),
            ("20261127", 20_784),
            ("21000301", 47_541),
            ("19690101", 0),
        ] {
            assert_eq!(at(date).unwrap(), Some(day), "{date}");
        }
        for unset in ["00000000", "        "] {
            assert_eq!(at(unset).unwrap(), None);
        }
        assert_eq!(day(&Date::new_empty()).unwrap(), None);
        for bad in ["20261301", "20260001", "20260132", "2026 101", "20xx0101", "+2260101"] {
            assert!(at(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_key_can_be_used_from_its_first_day_to_the_end_of_its_last() {
        let date = Date::new(*b"2026", *b"11", *b"27");
        let midnight = Duration::from_secs(20_784 * DAY);
        assert_eq!(start(&date).unwrap(), Some(midnight));
        assert_eq!(end(&date).unwrap(), Some(midnight + Duration::from_secs(DAY)));
    }
}
