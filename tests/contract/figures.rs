//! Figures of the brokers side by side, in one run: acknowledgement, delivery, throughput, ten
//! feeds, a large event.
//!
//! They are printed and never judged: they depend on the machine. `docs/PERFORMANCE.md` has the
//! command and an output.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, future::join_all, stream};
use pubsub_relay::{broker::Feed, event::Event};
use tokio::time::{Instant, interval, sleep};

use super::{Broker, accept, event, next, receive};

/// Paced events of each measurement, and the time between two.
const PACED: usize = 100;
const PACE: Duration = Duration::from_millis(100);

/// Publishes that wait for their acknowledgement at the same time, and for how long they go on.
const IN_FLIGHT: usize = 64;
const SATURATION: Duration = Duration::from_secs(5);

const LARGE_EVENTS: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn figures_of_brokers_are_printed() {
    println!("broker      ack p50/p99    delivery p50/p99  ten feeds p50/p99  acks/s at 64  9 MB event");
    let brokers = [
        ("memory", Some(Broker::memory())),
        ("pubsub", Broker::pubsub("figures").await),
        ("postgres", Broker::postgres("figures").await),
        ("rabbitmq", Broker::rabbitmq("figures").await),
    ];
    for (name, broker) in brokers {
        let Some(broker) = broker else { continue };
        let (acks, deliveries) = paced(&broker, 1).await;
        let (_, of_ten) = paced(&broker, 10).await;
        let (saturated, large) = (saturated(&broker).await, large(&broker).await);
        println!(
            "{name:<11} {:<14} {:<17} {:<18} {saturated:<13} {large:.0?}",
            quantiles(acks),
            quantiles(deliveries),
            quantiles(of_ten)
        );
    }
}

/// Publishes at an even pace. Returns the times until each acknowledgement, and until each delivery
/// by each feed.
async fn paced(broker: &Broker, feeds: usize) -> (Vec<Duration>, Vec<Duration>) {
    let mut opened = Vec::new();
    for n in 0..feeds {
        opened.push(broker.open_feed(&format!("paced-{feeds}-{n}")).await);
    }
    let publisher = broker.publisher().await;
    // The first event pays for the connection.
    publisher.publish(&event(Some("1"), "{}")).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    let events: Vec<Event> = (0..PACED).map(|_| event(Some("1"), "{}")).collect();
    let last = &events[PACED - 1].id;
    let publish = async {
        let (mut pace, mut acks, mut begun) = (interval(PACE), Vec::new(), HashMap::new());
        for event in &events {
            pace.tick().await;
            let start = Instant::now();
            begun.insert(Arc::clone(&event.id), start);
            publisher.publish(event).await.unwrap();
            acks.push(start.elapsed());
        }
        (acks, begun)
    };
    let read = join_all(opened.iter_mut().map(|feed| arrivals(&mut **feed, last)));
    let ((acks, begun), arrived) = tokio::join!(publish, read);
    let deliveries = arrived.into_iter().flatten().filter_map(|(id, at)| Some(at - *begun.get(&id)?));
    let deliveries = deliveries.collect();
    join_all(opened.iter_mut().map(|feed| feed.close())).await;
    (acks, deliveries)
}

/// Reads until the event with the id `last`. Returns when each event came first.
async fn arrivals(feed: &mut dyn Feed, last: &Arc<str>) -> HashMap<Arc<str>, Instant> {
    let mut arrived = HashMap::new();
    while !arrived.contains_key(last) {
        let event = accept(next(feed).await).unwrap();
        arrived.entry(event.id).or_insert_with(Instant::now);
    }
    arrived
}

/// Publishes as fast as acknowledgements come. Returns acknowledged events per second.
async fn saturated(broker: &Broker) -> String {
    let mut feed = broker.open_feed("saturated").await;
    let publisher = broker.publisher().await;
    publisher.publish(&event(None, "{}")).await.unwrap();
    let start = Instant::now();
    let running = stream::iter(0..).take_while(|_| std::future::ready(start.elapsed() < SATURATION));
    let publish = async |n: usize| publisher.publish(&event(Some(&(n % IN_FLIGHT).to_string()), "{}")).await;
    let acknowledged = running.map(publish).buffer_unordered(IN_FLIGHT);
    let acknowledged = acknowledged.fold(0_u32, async |count, answer| {
        answer.unwrap();
        count + 1
    });
    let read = async {
        loop {
            accept(next(&mut *feed).await).unwrap();
        }
    };
    let count = tokio::select! {
        count = acknowledged => count,
        () = read => unreachable!("it reads for ever"),
    };
    format!("{:.0}", f64::from(count) / start.elapsed().as_secs_f64())
}

/// Returns the median time from publishing an event of 9,000,000 bytes until its delivery.
async fn large(broker: &Broker) -> Duration {
    let mut feed = broker.open_feed("large").await;
    let publisher = broker.publisher().await;
    let mut times = Vec::new();
    for _ in 0..LARGE_EVENTS {
        let event = Event { data: vec![b'x'; 9_000_000].into(), ..event(Some("large"), "") };
        let start = Instant::now();
        let (answer, ()) = tokio::join!(publisher.publish(&event), async {
            while receive(&mut *feed, 1).await[0].id != event.id {}
        });
        answer.unwrap();
        times.push(start.elapsed());
    }
    times.sort();
    times[LARGE_EVENTS / 2]
}

/// Returns the median and the 99th percentile, in milliseconds.
fn quantiles(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    format!("{:.1}/{:.1} ms", at(50), at(99))
}
