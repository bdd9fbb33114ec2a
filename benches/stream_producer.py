#!/usr/bin/env python3
"""Produces events to a topic: `stream_producer.py ADDRESS TOPIC COUNT RATE USERS SPAN_SECONDS`.

RATE 0 is as fast as the broker takes them; the event times of those lie evenly over SPAN_SECONDS until now. With a rate an event
is of the moment it is sent. Users are Zipf-distributed (exponent 1). Prints how many seconds it took.
"""
import random
import sys
import time

from confluent_kafka import Producer


def stamp(moment):
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment)) + f".{int(moment % 1 * 1e6):06}Z"


def main():
    address, topic = sys.argv[1:3]
    count, rate, users, span = int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]), float(sys.argv[6])
    producer = Producer({"bootstrap.servers": address, "linger.ms": 2, "batch.num.messages": 10_000, "acks": 1,
                         "queue.buffering.max.messages": 200_000})
    drawn = random.Random(7)
    # 2 ** (uniform * log2(users)) has a density of 1 / x.
    picks = [int(users ** drawn.random()) - 1 for _ in range(1_000_003)]
    failed = []
    producer_started = time.time()
    started = time.monotonic()
    first = producer_started - span
    for number in range(count):
        if rate:
            due = started + number / rate
            if number % 16 == 0:
                while (wait := due - time.monotonic()) > 0:
                    producer.poll(min(wait, 0.002))
            at = time.time()
        else:
            at = first + span * number / count
        user = picks[number % len(picks)]
        body = f'{{"at":"{stamp(at)}","user_id":{user},"amount":{number % 1000}.25}}'
        while True:
            try:
                producer.produce(topic, body, key=str(user), on_delivery=lambda error, _: error and failed.append(error))
                break
            except BufferError:
                producer.poll(0.05)
        if number % 256 == 0:
            producer.poll(0)
    producer.flush()
    if failed:
        sys.exit(f"{len(failed)} events were not taken: {failed[0]}")
    print(time.monotonic() - started)


if __name__ == "__main__":
    main()
