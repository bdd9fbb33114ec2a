//! When which request is due.

use anyhow::{Context, bail};
use springhouse_core::time::parse_duration;
use std::str::FromStr;
use std::time::Duration;

/// Times the rate, for `length`, at the end of every period.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Burst {
    factor: f64,
    length_s: f64,
    every_s: f64,
}

impl FromStr for Burst {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let [factor, length, every] = parts[..] else {
            bail!("a burst is written FACTOR:LENGTH:EVERY, such as 5:2s:10s")
        };
        let seconds = |text: &str| -> anyhow::Result<f64> {
            Ok(parse_duration(text).with_context(|| format!("`{text}` is no duration"))? as f64 / 1e6)
        };
        let burst = Self {
            factor: factor.parse().with_context(|| format!("`{factor}` is no number"))?,
            length_s: seconds(length)?,
            every_s: seconds(every)?,
        };
        if !(burst.factor > 0.0 && burst.factor.is_finite() && burst.length_s < burst.every_s) {
            bail!("a burst has a factor above 0 and is shorter than its period");
        }
        Ok(burst)
    }
}

/// When requests are due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Timetable {
    rate: f64,
    burst: Option<Burst>,
}

impl Timetable {
    /// `None` without a rate: as fast as answered.
    pub(super) fn new(rate: f64, burst: Option<Burst>) -> Option<Self> {
        (rate > 0.0).then_some(Self { rate, burst })
    }

    /// How long after the start request `number` (from 0) is due.
    pub(super) fn due(&self, number: u64) -> Duration {
        let number = number as f64;
        let Some(burst) = self.burst else { return Duration::from_secs_f64(number / self.rate) };
        let calm_s = burst.every_s - burst.length_s;
        let calm = calm_s * self.rate;
        let period = calm + burst.length_s * self.rate * burst.factor;
        let (periods, within) = ((number / period).floor(), number % period);
        let offset = if within < calm {
            within / self.rate
        } else {
            calm_s + (within - calm) / (self.rate * burst.factor)
        };
        Duration::from_secs_f64(periods * burst.every_s + offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_come_at_the_end_of_each_period() {
        let timetable = Timetable::new(100.0, Some("5:2s:10s".parse().unwrap())).unwrap();
        let in_second = |second: u64| {
            let due = |n: &u64| timetable.due(*n).as_secs_f64();
            (0..5000).filter(|n| due(n) >= second as f64 && due(n) < (second + 1) as f64).count()
        };
        assert_eq!([0, 5, 7, 8, 9, 10, 18].map(in_second), [100, 100, 100, 500, 500, 100, 500]);
        assert_eq!(Timetable::new(50.0, None).unwrap().due(100), Duration::from_secs(2));
        assert_eq!(Timetable::new(0.0, None), None);
        for bad in ["5", "5:2s", "x:1s:2s", "2:3s:2s", "0:1s:2s", "2:1:2s"] {
            assert!(bad.parse::<Burst>().is_err(), "{bad}");
        }
    }
}
