//! The laws of states, on random views, events and histories: whatever the order of arrival, the splitting, merging,
//! folding, dropping and storing, every answer is the one that a plain list of the events gives. Training values too.
//!
//! `LAWS_SEED=<n>` replays a run that failed; `LAWS_CASES=<n>` runs more cases.
#![expect(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

#[path = "laws/naive.rs"]
mod naive;
#[path = "laws/random.rs"]
mod random;

use naive::Naive;
use random::{Random, View};
use springhouse_core::{Micros, Value, ValueStatus, ValueType};
use springhouse_kernel::{
    EntityAnswer, EntityState, Event, EventColumns, LabelColumns, READ_BACK, Stamp, array_from_values,
    training_values, value_at,
};

/// Runs `case` with seeds that follow from one printed number.
fn for_seeds(cases: u64, case: fn(&mut Random)) {
    let fresh = || std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 % 1_000_000_007;
    let setting = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let base = setting("LAWS_SEED").unwrap_or_else(fresh);
    for number in 0..setting("LAWS_CASES").unwrap_or(cases) {
        let seed = base + number;
        let outcome = std::panic::catch_unwind(|| case(&mut Random::new(seed)));
        assert!(outcome.is_ok(), "replay with LAWS_SEED={seed} LAWS_CASES=1");
    }
}

fn compare(view: &View, got: &EntityAnswer, events: &[Event], at: Micros, what: &str) {
    let Some(events) = (Naive { view, events }).surviving(at) else { return };
    let naive = Naive { view, events: &events };
    let (features, event_time) = naive.read(at);
    for (i, (value, status)) in features.iter().enumerate() {
        let (name, _) = &view.plan.features()[i];
        let function = view.function(i);
        assert_eq!(got.statuses[i], *status, "{what}: status of {name} at {at}, {:?}", got.values[i]);
        naive::assert_same(&got.values[i], value, function, &format!("{what}: {name} at {at}"));
    }
    assert_eq!(got.event_time, event_time, "{what}: event time at {at}");
}

/// Builds a state of `events` in some random way; every write is at or before `now`.
fn random_delta(random: &mut Random, view: &View, events: &[Event], now: Micros) -> EntityState {
    let mut parts: Vec<EntityState> = (0..random.below(3) + 1).map(|_| view.plan.empty()).collect();
    for event in random.shuffled(events) {
        let part = random.below(parts.len());
        let then = match random.below(4) {
            0 => Micros::MIN,
            // On and beside the event's own horizon.
            1 => now.min(event.stamp.visible_at() + READ_BACK + random.span(2) - 1),
            _ => now - random.span(3 * READ_BACK),
        };
        view.plan.insert(&mut parts[part], event, then);
        if random.chance(0.1) {
            view.plan.compact(&mut parts[part], then);
        }
    }
    let mut sum = parts.pop().unwrap();
    for mut part in parts {
        if random.chance(0.5) {
            std::mem::swap(&mut sum, &mut part);
        }
        view.plan.merge(&mut sum, &part);
    }
    sum
}

fn stored_and_loaded(view: &View, state: &EntityState) -> EntityState {
    let (mut bytes, mut again) = (Vec::new(), Vec::new());
    view.plan.encode(state, &mut bytes);
    let loaded = view.plan.decode(&bytes).unwrap();
    assert_eq!(loaded, *state);
    view.plan.encode(&loaded, &mut again);
    assert_eq!(bytes, again);
    loaded
}

#[test]
fn an_answer_does_not_depend_on_how_its_state_came_about() {
    for_seeds(400, |random| {
        let view = random.view();
        let events = random.events(&view, 60);
        let mut left = random.shuffled(&events);
        let mut inserted: Vec<Event> = Vec::new();
        let mut state = view.plan.empty();
        let mut now = random.write_moment(&events);
        loop {
            let chunk = left.split_off(left.len() - random.below(left.len() + 1).min(20));
            let mut delta = random_delta(random, &view, &chunk, now);
            if random.chance(0.5) {
                std::mem::swap(&mut delta, &mut state);
            }
            view.plan.merge(&mut state, &delta);
            inserted.extend(chunk);
            if random.chance(0.6) {
                view.plan.compact(&mut state, now);
            }
            if random.chance(0.5) {
                state = stored_and_loaded(&view, &state);
            }
            for _ in 0..6 {
                let at = random.moment(&events).max(now - READ_BACK);
                let read = view.plan.read(&state, at);
                compare(&view, &read, &inserted, at, "read");
                let mut reading = view.plan.reading(&state, at);
                assert_eq!(reading.event_time(), read.event_time);
                for (feature, expected) in read.values.into_iter().zip(read.statuses).enumerate() {
                    let mut value = Value::Null;
                    let status = reading.take(feature, &mut value);
                    assert_eq!((value, status), expected, "read by feature");
                }
            }
            let edge = now - READ_BACK;
            compare(&view, &view.plan.read(&state, edge), &inserted, edge, "read at the horizon");
            if left.is_empty() {
                break;
            }
            now = now.max(random.write_moment(&events));
        }
        // Two histories that end at one moment end in one state, to the byte.
        let mut other = random_delta(random, &view, &events, now);
        view.plan.compact(&mut other, now);
        view.plan.compact(&mut state, now);
        assert_eq!(state, other);
        let (mut a, mut b) = (Vec::new(), Vec::new());
        view.plan.encode(&state, &mut a);
        view.plan.encode(&other, &mut b);
        assert_eq!(a, b);
    });
}

#[test]
fn states_are_a_commutative_monoid() {
    for_seeds(200, |random| {
        let view = random.view();
        let events = random.events(&view, 45);
        let now = random.moment(&events);
        let thirds: Vec<EntityState> =
            events.chunks(15).map(|part| random_delta(random, &view, part, now)).collect();
        let merged = |a: &EntityState, b: &EntityState| {
            let mut sum = a.clone();
            view.plan.merge(&mut sum, b);
            sum
        };
        let empty = view.plan.empty();
        for a in &thirds {
            assert_eq!(merged(a, &empty), *a);
            assert_eq!(merged(&empty, a), *a);
            for b in &thirds {
                if std::ptr::eq(a, b) {
                    continue;
                }
                assert_eq!(merged(a, b), merged(b, a));
                for c in thirds.iter().filter(|c| !std::ptr::eq(*c, a) && !std::ptr::eq(*c, b)) {
                    assert_eq!(merged(&merged(a, b), c), merged(a, &merged(b, c)));
                }
            }
        }
        assert_eq!(view.plan.read_empty(), view.plan.read(&empty, now));
    });
}

#[test]
fn training_values_are_what_a_list_of_the_events_gives() {
    for_seeds(300, |random| {
        let view = random.view();
        let entity_count = 1 + random.below(5);
        let mut by_entity: Vec<Vec<Event>> = (0..entity_count).map(|_| random.events(&view, 50)).collect();
        if view.takes_back().is_some() && random.chance(0.3) {
            // Some of what is taken back never came.
            by_entity.iter_mut().for_each(|events| events.retain(|_| random.chance(0.8)));
        }
        let is_event_time_only = random.chance(0.3);
        let mut rows: Vec<(u32, Event, Option<u128>)> = Vec::new();
        let mut counted: Vec<Vec<Event>> = vec![Vec::new(); entity_count];
        let mut next_id = 0u128;
        for (entity, events) in by_entity.iter().enumerate() {
            for event in events {
                let mut event = event.clone();
                if is_event_time_only {
                    event.stamp.known_at = event.stamp.event_time;
                }
                next_id += 1;
                let id = random.chance(0.7).then_some(next_id);
                counted[entity].push(event.clone());
                rows.push((entity as u32, event.clone(), id));
                if id.is_some() && random.chance(0.2) {
                    // A redelivery: known later, or at once with a greater number; it may say something else.
                    let stamp = event.stamp;
                    let known_at = stamp.known_at + random.span(5) * i64::from(!is_event_time_only);
                    let other = random.events(&view, 1).pop();
                    let values = other.map_or(event.values, |other| other.values);
                    let stamp = Stamp { known_at, seq: stamp.seq + 1_000, ..stamp };
                    rows.push((entity as u32, Event { stamp, values }, id));
                }
            }
        }
        let rows = random.shuffled(&rows);
        let column = |of: fn(&Stamp) -> i64| rows.iter().map(|(_, e, _)| of(&e.stamp)).collect::<Vec<_>>();
        let inputs = view.plan.inputs().iter().enumerate().map(|(i, input)| {
            array_from_values(input.value_type(), rows.iter().map(|(_, event, _)| &event.values[i]))
        });
        let inputs: Vec<_> = inputs.collect();
        let ids: Vec<Option<u128>> = rows.iter().map(|(_, _, id)| *id).collect();
        let columns = EventColumns {
            entities: &rows.iter().map(|(entity, ..)| *entity).collect::<Vec<_>>(),
            event_times: &column(|s| s.event_time),
            known_at: &column(|s| s.known_at),
            seq: &column(|s| s.seq),
            event_ids: Some(&ids),
            inputs: &inputs,
        };
        // One entity more than has events.
        let asked: Vec<u32> = (0..40).map(|_| random.below(entity_count + 1) as u32).collect();
        let moments: Vec<Event> = counted.iter().flatten().cloned().collect();
        let at: Vec<Micros> = asked.iter().map(|_| random.moment(&moments)).collect();
        let labels = LabelColumns { entities: &asked, at: &at };
        let out = training_values(&view.plan, entity_count + 1, &columns, &labels);
        for (row, (entity, at)) in asked.iter().zip(&at).enumerate() {
            let types = view.plan.features().iter().map(|(_, value_type)| value_type);
            let got = EntityAnswer {
                values: types.zip(&out.values).map(|(t, array)| value_at(array, row, t)).collect(),
                statuses: out.statuses.iter().map(|statuses| statuses[row]).collect(),
                event_time: out.event_times.as_ref().and_then(|times| times[row]),
            };
            let events = counted.get(*entity as usize).map_or(&[][..], Vec::as_slice);
            compare(&view, &got, events, *at, "training");
            // And to the bit what the online state gives, sketches included.
            let mut state = view.plan.empty();
            random.shuffled(events).into_iter().for_each(|e| view.plan.insert(&mut state, e, *at));
            assert_eq!(view.plan.read(&state, *at), got, "online and training differ at {at}");
        }
    });
}

#[test]
fn what_is_taken_back_before_it_came_is_the_same_in_every_order() {
    for_seeds(200, |random| {
        let view = random.view();
        let mut events = random.events(&view, 40);
        // Most of what was taken back never came.
        events.retain(|event| {
            let is_back = view.takes_back().is_some_and(|flag| event.values[flag] == Value::Bool(true));
            is_back || random.chance(0.4)
        });
        let now = random.write_moment(&events);
        let mut states: Vec<EntityState> =
            (0..3).map(|_| random_delta(random, &view, &events, now)).collect();
        states.iter_mut().for_each(|state| view.plan.compact(state, now));
        assert_eq!(states[0], states[1]);
        assert_eq!(stored_and_loaded(&view, &states[1]), states[2]);
        let at = random.moment(&events).max(now);
        assert_eq!(view.plan.read(&states[0], at), view.plan.read(&states[2], at));
        // What came too late to be taken back is taken back all the same.
        if let Some(flag) = view.takes_back() {
            let mut whole = states.pop().unwrap();
            let mut backs = events.clone();
            backs.retain(|event| event.values[flag] == Value::Bool(true));
            for event in &mut backs {
                event.values[flag] = Value::Bool(false);
            }
            let late = random_delta(random, &view, &backs, now);
            view.plan.merge(&mut whole, &late);
            events.extend(backs);
            compare(&view, &view.plan.read(&whole, at), &events, at, "late");
        }
    });
}

#[test]
fn a_window_is_over_the_cap_of_groups_only_while_too_many_are_in_it() {
    let view = View::of_counts_by_group("int64", springhouse_core::time::MINUTE);
    let groups = 10_000;
    // One more group than fits, one event a millisecond: the first leaves when the window moves on by a hop.
    let second = springhouse_core::time::SECOND;
    let events: Vec<Event> = (0..=groups)
        .map(|i| Event {
            stamp: Stamp { event_time: i * 1_000, known_at: i * 1_000, seq: i },
            values: vec![Value::Int64(i)],
        })
        .collect();
    let at = [groups * 1_000, groups * 1_000 + 1, 61 * second - 1, 61 * second];
    let inputs = [array_from_values(&ValueType::Int64, events.iter().map(|event| &event.values[0]))];
    let times: Vec<Micros> = events.iter().map(|event| event.stamp.event_time).collect();
    let columns = EventColumns {
        entities: &vec![0; events.len()],
        event_times: &times,
        known_at: &times,
        seq: &(0..=groups).collect::<Vec<_>>(),
        event_ids: None,
        inputs: &inputs,
    };
    let out = training_values(&view.plan, 1, &columns, &LabelColumns { entities: &[0; 4], at: &at });
    let (fresh, over) = (ValueStatus::Fresh, ValueStatus::OverCap);
    assert_eq!(out.statuses[0], [fresh, over, over, fresh]);
    let mut state = view.plan.empty();
    events.into_iter().for_each(|event| view.plan.insert(&mut state, event, at[3]));
    for (row, at) in at.iter().enumerate().skip(1) {
        let answer = view.plan.read(&stored_and_loaded(&view, &state), *at);
        assert_eq!(answer.statuses[0], out.statuses[0][row]);
        assert_eq!(answer.values[0], value_at(&out.values[0], row, &view.plan.features()[0].1));
    }
}

#[test]
fn damaged_bytes_are_refused_and_never_panic() {
    for_seeds(40, |random| {
        let view = random.view();
        let events = random.events(&view, 12);
        let now = random.moment(&events);
        let state = random_delta(random, &view, &events, now);
        let mut bytes = Vec::new();
        view.plan.encode(&state, &mut bytes);
        for at in 0..bytes.len() {
            assert!(view.plan.decode(&bytes[..at]).is_err(), "cut at {at}");
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert!(view.plan.decode(&damaged).is_err(), "bit {bit} of byte {at}");
            }
            // Damage under a checksum that is right again: any answer but a panic; what decodes is one spelling.
            let mut damaged = bytes[..bytes.len() - 4].to_vec();
            if at < damaged.len() {
                damaged[at] = random.below(256) as u8;
                damaged.truncate(damaged.len() - random.below(2));
            }
            damaged.extend(crc32c::crc32c(&damaged).to_le_bytes());
            if let Ok(state) = view.plan.decode(&damaged) {
                let mut again = Vec::new();
                view.plan.encode(&state, &mut again);
                // What an older version wrote is written as this one does.
                assert!(again == damaged || damaged[0] < bytes[0], "{again:?} {damaged:?}");
            }
        }
    });
}

#[test]
fn a_random_view_is_worth_its_name() {
    // The laws mean little if the random views never reach a kind of state.
    let mut random = Random::new(1);
    let views: Vec<View> = (0..300).map(|_| random.view()).collect();
    let text = views.iter().map(|view| format!("{:?}", view.definition)).collect::<String>();
    for name in [
        "Count",
        "Sum",
        "Mean",
        "Min",
        "Max",
        "Variance",
        "Stddev",
        "First",
        "Last",
        "FirstN",
        "LastN",
        "CountDistinct",
        "ApproxCountDistinct",
        "ApproxQuantile",
        "TopN",
        "ValueCounts",
        "SecondsSinceLast",
        "group_by: Some",
        "filter: Some",
        "hop: 1,",
        "window: None",
        "Latest",
        "op: Some",
    ] {
        assert!(text.contains(name), "{name}");
    }
    assert!(views.iter().any(|view| view.plan.inputs().iter().any(|i| *i.value_type() == ValueType::Date)));
}
