//! A task that wakes itself while it is polled goes on at once.
//!
//! h2 wakes the connection's task from within for each answer. The scheduler puts such a task at the end of its queue and wakes
//! another thread to help with that, which then sends the answer: where calls come one by one, this takes longer than to make
//! it. (hyper wakes the task too, for each body of HTTP/1, but there nothing is left to do, and it may as well wait.)

use futures::task::AtomicWaker;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// Times that a task goes on by itself before other tasks have their turn.
const POLLS_MAX: usize = 8;

/// The task is being polled; when it isn't, who wakes wakes it.
const POLLED: u8 = 1;
/// It was woken since that began.
const WOKEN: u8 = 2;

/// Stands between those who wake and the task.
#[derive(Debug, Default)]
pub(crate) struct InPlace {
    is_on: AtomicBool,
    state: AtomicU8,
    task: AtomicWaker,
}

impl Wake for InPlace {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.fetch_or(WOKEN, Ordering::AcqRel) & POLLED == 0 {
            self.task.wake();
        }
    }
}

impl InPlace {
    /// From now on the task goes on at once; until then the scheduler has the say.
    pub(crate) fn begin(&self) {
        self.is_on.store(true, Ordering::Relaxed);
    }

    /// Runs `future`.
    pub(crate) async fn run<F: Future>(self: Arc<Self>, future: F) -> F::Output {
        let waker = Waker::from(self.clone());
        let mut future = pin!(future);
        poll_fn(move |context| {
            self.task.register(context.waker());
            for _ in 0..POLLS_MAX {
                // Exchanged, not stored: of who woke before, everything is seen by this poll.
                self.state.swap(POLLED, Ordering::AcqRel);
                let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
                let was_woken = self.state.swap(0, Ordering::AcqRel) & WOKEN != 0;
                if polled.is_ready() || !was_woken {
                    return polled;
                }
                if !self.is_on.load(Ordering::Relaxed) {
                    break;
                }
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::task::noop_waker;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    async fn in_place<F: Future>(future: F) -> F::Output {
        let place = Arc::new(InPlace::default());
        place.begin();
        place.run(future).await
    }

    /// Wakes itself so many times before it is done.
    fn eager(mut times: usize) -> impl Future<Output = ()> {
        poll_fn(move |context| {
            if times == 0 {
                return Poll::Ready(());
            }
            times -= 1;
            context.waker().wake_by_ref();
            Poll::Pending
        })
    }

    /// How often the scheduler is asked until it is done: each time that it isn't, and no more.
    fn times_scheduled(future: impl Future<Output = ()>) -> usize {
        let woken = Arc::new(Count::default());
        let waker = Waker::from(woken.clone());
        let mut future = pin!(future);
        let mut polls = 0;
        while future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            polls += 1;
            assert_eq!(woken.0.load(Ordering::SeqCst), polls);
        }
        assert_eq!(woken.0.load(Ordering::SeqCst), polls);
        polls
    }

    #[test]
    fn who_wakes_itself_goes_on_without_the_scheduler_and_not_for_ever() {
        assert_eq!(times_scheduled(in_place(eager(POLLS_MAX - 1))), 0);
        assert_eq!(times_scheduled(in_place(eager(2 * POLLS_MAX))), 2);
    }

    #[test]
    fn until_it_begins_the_scheduler_is_asked_each_time() {
        assert_eq!(times_scheduled(Arc::new(InPlace::default()).run(eager(2))), 2);
    }

    #[test]
    fn the_newest_waker_of_the_task_is_woken() {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let mut waiting = pin!(in_place(receiver));
        assert!(waiting.as_mut().poll(&mut Context::from_waker(&noop_waker())).is_pending());
        let woken = Arc::new(Count::default());
        assert!(waiting.as_mut().poll(&mut Context::from_waker(&Waker::from(woken.clone()))).is_pending());
        sender.send(7).unwrap();
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
        assert_eq!(waiting.as_mut().poll(&mut Context::from_waker(&noop_waker())), Poll::Ready(Ok(7)));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_wake_is_lost_between_threads() {
        const MESSAGES: usize = 20_000;
        let (sender, mut receiver) = tokio::sync::mpsc::channel::<usize>(1);
        let sending = tokio::spawn(async move {
            for number in 0..MESSAGES {
                sender.send(number).await.unwrap();
                if number % 3 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        });
        let receiving = tokio::spawn(in_place(async move {
            let mut expected = 0;
            while let Some(number) = receiver.recv().await {
                assert_eq!(number, expected);
                expected += 1;
                eager(number % 4).await;
            }
            expected
        }));
        let received = tokio::time::timeout(Duration::from_secs(60), receiving).await;
        assert_eq!(received.expect("a wake was lost").unwrap(), MESSAGES);
        sending.await.unwrap();
    }
}
