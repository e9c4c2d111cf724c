//! Cores that work by themselves for a while, then want the one lock, again and again: a closed queue
//! with one server, simulated event by event.

use std::{cmp::Reverse, collections::BinaryHeap};

/// The pool's lock.
#[derive(Clone, Copy, Debug)]
pub struct Lock {
    /// Nanoseconds that it is held each time.
    pub held: f64,
    /// Nanoseconds more if another core had it last.
    pub hand_over: f64,
}

/// What became of it.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Objects in a nanosecond, of all cores.
    pub rate: f64,
    /// The part of the time in which the lock was held, or on its way.
    pub taken: f64,
}

/// Times that each core takes the lock: enough for the start not to matter.
const EXCHANGES: u32 = 2000;

/// What so many cores do if an object costs each `own` nanoseconds, and it takes the lock `exchanges`
/// times for each. Who comes first gets it first; it never sleeps.
pub fn simulate(cores: u32, own: f64, exchanges: f64, lock: Lock) -> Outcome {
    if exchanges == 0.0 {
        return Outcome { rate: f64::from(cores) / own, taken: 0.0 };
    }
    let gap = picos(own / exchanges);
    let (held, passed) = (picos(lock.held), picos(lock.held + lock.hand_over));
    // They start one after the other, as if they had always been at it.
    let starts = (0..cores).map(|core| Reverse((gap * u64::from(core) / u64::from(cores), core)));
    let mut waiting: BinaryHeap<_> = starts.collect();
    let (mut now, mut busy, mut last) = (0, 0, None);
    for _ in 0..EXCHANGES * cores {
        let Some(Reverse((wants, core))) = waiting.pop() else { break };
        let takes = if last == Some(core) || last.is_none() { held } else { passed };
        now = wants.max(now) + takes;
        busy += takes;
        last = Some(core);
        waiting.push(Reverse((now + gap, core)));
    }
    let objects = f64::from(EXCHANGES * cores) / exchanges;
    let total = nanos(now);
    Outcome { rate: objects / total, taken: nanos(busy) / total }
}

/// How many cores fill the lock; `None` if none do.
pub fn saturation(own: f64, exchanges: f64, lock: Lock) -> Option<f64> {
    let service = lock.held + lock.hand_over;
    (exchanges > 0.0).then(|| (own / exchanges + service) / service)
}

/// Times as whole numbers, so that events have one order.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and positive")]
fn picos(nanos: f64) -> u64 {
    (nanos.max(0.0) * 1e3).round() as u64
}

#[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
fn nanos(picos: u64) -> f64 {
    picos as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: Lock = Lock { held: 20.0, hand_over: 80.0 };

    #[test]
    fn one_core_waits_for_nobody() {
        let one = simulate(1, 2.0, 0.01, LOCK);
        assert!((one.rate - 1.0 / (2.0 + 0.2)).abs() < 1e-3, "{one:?}");
        assert!((one.taken - 20.0 / 220.0).abs() < 1e-3, "{one:?}");
    }

    #[test]
    fn few_cores_scale_and_many_share_the_lock() {
        // Each works for 900 ns and has the lock for 100: ten of them fill it.
        let (own, exchanges) = (9.0, 0.01);
        assert_eq!(saturation(own, exchanges, LOCK), Some(10.0));
        let rate = |cores| simulate(cores, own, exchanges, LOCK).rate;
        assert!((rate(5) / rate(10) - 0.5).abs() < 0.01, "{} {}", rate(5), rate(10));
        assert!((rate(10) - 1.0).abs() < 0.01, "{}", rate(10));
        assert!((rate(64) - 1.0).abs() < 0.01, "{}", rate(64));
        assert!(simulate(64, own, exchanges, LOCK).taken > 0.99);
    }

    #[test]
    fn without_the_lock_everything_scales() {
        let outcome = simulate(64, 2.0, 0.0, LOCK);
        assert!((outcome.rate - 32.0).abs() < 1e-9 && outcome.taken == 0.0);
        assert_eq!(saturation(2.0, 0.0, LOCK), None);
    }
}
