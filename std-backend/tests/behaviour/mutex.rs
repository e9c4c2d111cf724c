//! The mutex excludes, by hand and through `lock_api`.

use std::sync::Barrier;
use std::thread;

use libmempool_std::PthreadMutex;
use lock_api::{Mutex, RawMutex};

#[test]
fn threads_exclude_each_other() {
    const THREADS: usize = 4;
    const ROUNDS: usize = 20_000;
    static COUNTER: Mutex<PthreadMutex, usize> = Mutex::new(0);
    let start = Barrier::new(THREADS);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                start.wait();
                for _ in 0..ROUNDS {
                    *COUNTER.lock() += 1;
                }
            });
        }
    });
    assert_eq!(*COUNTER.lock(), THREADS * ROUNDS);
}

#[test]
fn try_lock_fails_while_locked_in_any_thread() {
    let mutex = Mutex::<PthreadMutex, _>::new(());
    let held = mutex.lock();
    assert!(mutex.is_locked());
    assert!(mutex.try_lock().is_none());
    thread::scope(|scope| {
        scope.spawn(|| assert!(mutex.try_lock().is_none()));
    });
    drop(held);
    assert!(!mutex.is_locked());
    thread::scope(|scope| {
        scope.spawn(|| assert!(mutex.try_lock().is_some()));
    });
}

#[test]
fn a_waiting_thread_gets_the_lock_when_it_is_released() {
    let mutex = Mutex::<PthreadMutex, _>::new(0);
    let start = Barrier::new(2);
    thread::scope(|scope| {
        let mut held = mutex.lock();
        let waiter = scope.spawn(|| {
            start.wait();
            *mutex.lock()
        });
        start.wait();
        *held = 1;
        drop(held);
        assert_eq!(waiter.join().unwrap(), 1);
    });
}

#[test]
fn an_unlocked_mutex_may_move() {
    let mut mutexes = vec![Mutex::<PthreadMutex, _>::new(0)];
    *mutexes[0].lock() = 1;
    for value in 1..100 {
        let mutex = mutexes.pop().unwrap();
        assert_eq!(*mutex.lock(), value);
        *mutex.lock() += 1;
        let moved = Box::new(mutex);
        thread::scope(|scope| {
            scope.spawn(|| assert!(moved.try_lock().is_some()));
        });
        mutexes.push(*moved);
        mutexes.reserve_exact(64);
    }
}

#[test]
fn the_raw_mutex_is_unlocked_by_hand() {
    let mutex = PthreadMutex::default();
    mutex.lock();
    assert!(!mutex.try_lock());
    // SAFETY: This thread holds it.
    unsafe { mutex.unlock() };
    assert!(mutex.try_lock());
    assert_eq!(format!("{mutex:?}"), "PthreadMutex { .. }");
}
