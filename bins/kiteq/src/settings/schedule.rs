//! The redelivery schedule as people write it: `3 at once, 5s below 10, 10s below 20, then 160s`.

use kiteq_broker::RedeliverySchedule;

use kiteq_settings::units::{parse_duration, show_duration};

const EXPECTED: &str = "expected a schedule such as \"3 at once, 5s below 10, 10s below 20, then 160s\"";

/// Reads a schedule. Parts in this order: how many attempts follow at once, any number of waits below an attempt count
/// (ascending), the wait from there on.
pub(crate) fn parse(text: &str) -> Result<RedeliverySchedule, String> {
    let refuse = |part: &str, reason: &str| format!("{EXPECTED}; {part:?} {reason}");
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    let [first, steps @ .., last] = parts.as_slice() else {
        return Err(refuse(text, "has fewer than two parts"));
    };
    let immediate_attempts = first
        .strip_suffix("at once")
        .and_then(|number| number.trim().parse().ok())
        .filter(|&attempts: &u32| attempts >= 1)
        .ok_or_else(|| refuse(first, "does not say how many attempts follow at once"))?;
    let beyond = last.strip_prefix("then").ok_or_else(|| refuse(last, "does not begin with \"then\""))?;
    let beyond = parse_duration(beyond.trim())?;
    let mut below_before = immediate_attempts;
    let mut waits = Vec::with_capacity(steps.len());
    for step in steps {
        let (wait, below) = step.split_once("below").ok_or_else(|| refuse(step, "does not say \"below\""))?;
        let below = below.trim().parse().map_err(|_| refuse(step, "has no attempt count after \"below\""))?;
        if below <= below_before {
            return Err(refuse(step, "does not come after the part before it"));
        }
        below_before = below;
        waits.push((below, parse_duration(wait.trim())?));
    }
    Ok(RedeliverySchedule { immediate_attempts, steps: waits, beyond })
}

/// Writes a schedule so that [`parse`] reads it back.
pub(crate) fn show(schedule: &RedeliverySchedule) -> String {
    let mut parts = vec![format!("{} at once", schedule.immediate_attempts)];
    let steps = schedule.steps.iter();
    parts.extend(steps.map(|&(below, wait)| format!("{} below {below}", show_duration(wait))));
    parts.push(format!("then {}", show_duration(schedule.beyond)));
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_written_and_read_back() {
        let default = RedeliverySchedule::default();
        let text = show(&default);
        assert!(text.starts_with("3 at once, 5s below 10, ") && text.contains(", then 160s"), "{text}");
        assert_eq!(parse(&text).unwrap(), default);
        assert_eq!(parse("1 at once, then 1s").unwrap().steps, []);
    }

    #[test]
    fn what_is_no_schedule_is_refused_with_an_example() {
        let wrong = [
            "",
            "3 at once",
            "0 at once, then 1s",
            "3 at once, 5s below 10",
            "3 at once, 5s, then 1s",
            "3 at once, 5s below 10, 6s below 10, then 1s",
            "3 at once, 5s below 2, then 1s",
            "3 at once, 5s below x, then 1s",
        ];
        for text in wrong {
            assert!(parse(text).unwrap_err().contains("3 at once, 5s below 10"), "{text}");
        }
        assert!(parse("3 at once, then soon").unwrap_err().contains("500ms"));
    }
}
