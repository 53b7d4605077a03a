//! Typed events through a store: a serde enum is the schema.

use serde::{Deserialize, Serialize};
use towpath::{Codec, Commit, Error, EventId, NewEvent, Position, Query, Timestamp, Upcasters};

use crate::support::Scratch;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Order {
    Placed {
        sku: String,
        amount: u32,
    },
    Paid,
    Noted(String),
    Moved(u32, Option<String>),
    #[serde(rename = "order.shipped")]
    Shipped {
        to: String,
    },
}

/// The same a year later.
#[derive(Debug, PartialEq, Deserialize)]
enum Later {
    Placed {
        #[serde(alias = "sku")]
        article: String,
        amount: u32,
        #[serde(default)]
        gift: bool,
    },
    #[serde(other)]
    Whatever,
}

/// The codecs of typed events that find fields by name and are in this build.
fn codecs() -> Vec<Codec> {
    if cfg!(feature = "json") { vec![Codec::MessagePack, Codec::Json] } else { vec![Codec::MessagePack] }
}

fn orders() -> Vec<Order> {
    vec![
        Order::Placed { sku: "tea".into(), amount: 3 },
        Order::Paid,
        Order::Noted("ring twice".into()),
        Order::Moved(7, None),
        Order::Moved(8, Some("attic".into())),
        Order::Shipped { to: "Zürich".into() },
    ]
}

#[test]
fn values_come_back_as_they_were_also_after_reopening() {
    let dir = Scratch::new();
    let mut store = dir.open();
    let mut written = Vec::new();
    for codec in codecs() {
        for order in orders() {
            store.append("order-1", NewEvent::typed_as(&order, codec).unwrap()).unwrap();
            written.push((codec, order));
        }
    }
    for _reopened in [false, true] {
        let read = store.read(Query::new()).map(|event| {
            let event = event.unwrap();
            (event.codec(), event.decode::<Order>().unwrap())
        });
        assert_eq!(read.collect::<Vec<_>>(), written);
        let names = ["Placed", "Paid", "Noted", "Moved", "Moved", "order.shipped"];
        let named: Vec<_> = store.read(Query::new()).map(|event| event.unwrap().type_name().to_owned()).collect();
        assert_eq!(named, names.repeat(codecs().len()), "the type is the variant's serde name");
        assert_eq!(store.read(Query::new().types(["order.shipped"])).count(), codecs().len());
        store.close().unwrap();
        store = dir.open();
    }
}

#[test]
fn history_stays_readable_when_the_enum_grows() {
    let dir = Scratch::new();
    let store = dir.open();
    for codec in codecs() {
        for order in orders() {
            store.append("order-1", NewEvent::typed_as(&order, codec).unwrap()).unwrap();
        }
    }
    for event in store.read(Query::new()) {
        let event = event.unwrap();
        let later: Later = event.decode().unwrap();
        match event.type_name() {
            "Placed" => assert_eq!(later, Later::Placed { article: "tea".into(), amount: 3, gift: false }),
            _ => assert_eq!(later, Later::Whatever),
        }
    }
}

#[test]
fn what_does_not_decode_names_type_position_and_field() {
    #[derive(Debug, Serialize, Deserialize)]
    enum Wrong {
        Placed { sku: String, amount: String },
    }
    let dir = Scratch::new();
    let store = dir.open();
    store.append("order-1", NewEvent::typed(&Order::Paid).unwrap()).unwrap();
    for codec in codecs() {
        let wrong = Wrong::Placed { sku: "tea".into(), amount: "three".into() };
        let receipt = store.append("order-1", NewEvent::typed_as(&wrong, codec).unwrap()).unwrap();
        let event = store.event(receipt.first()).unwrap().unwrap();
        assert!(event.decode::<Wrong>().is_ok(), "the check can fail");
        match event.decode::<Order>().unwrap_err() {
            Error::Decode { position, type_name, field, .. } => {
                assert_eq!((position, &*type_name, field.as_deref()), (receipt.first(), "Placed", Some("amount")));
            }
            other => panic!("{other}"),
        }
    }
    let unknown = store.append("order-1", NewEvent::new("Vanished", "")).unwrap().first();
    let raw = store.append("order-1", NewEvent::new("Placed", b"\xff\xfe")).unwrap().first();
    let cut = NewEvent::encoded("Placed", Codec::MessagePack, &b"\x82\xa3sku"[..]);
    let cut = store.append("order-1", cut).unwrap().first();
    for position in [unknown, raw, cut] {
        let error = store.event(position).unwrap().unwrap().decode::<Order>().unwrap_err();
        assert!(matches!(&error, Error::Decode { position: told, .. } if *told == position), "{error}");
        assert!(error.to_string().contains(&format!("position {position}")), "{error}");
    }
}

#[test]
fn upcasters_bring_old_events_up_to_date_when_they_are_read() {
    #[derive(Serialize, Deserialize)]
    struct Old {
        name: String,
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Person {
        Renamed { first: String, last: String },
    }
    let upcasters = Upcasters::new().upcast("Renamed", 0, |old: Old| {
        let (first, last) = old.name.split_once(' ').unwrap();
        Person::Renamed { first: first.to_owned(), last: last.to_owned() }
    });
    let dir = Scratch::new();
    let store = dir.open();
    let new = Person::Renamed { first: "Ada".into(), last: "Lovelace".into() };
    for codec in codecs() {
        let old = NewEvent::typed_as(&Old { name: "Ada Lovelace".into() }, codec).unwrap();
        let old = NewEvent::encoded("Renamed", codec, old.payload().to_vec());
        store.append("person-1", old).unwrap();
        store.append("person-1", NewEvent::typed_as(&new, codec).unwrap().schema_version(1)).unwrap();
    }
    for event in store.read(Query::new()) {
        let event = event.unwrap();
        assert_eq!(event.decode_with::<Person>(&upcasters).unwrap(), new);
        assert_eq!(event.decode::<Person>().is_ok(), event.schema_version() == 1, "without them the old ones fail");
    }
}

#[test]
fn a_rule_can_look_into_typed_events() {
    let dir = Scratch::new();
    let store = dir.open();
    let place = |amount| {
        let mut commit = Commit::new();
        commit.event("order-1", NewEvent::typed(&Order::Placed { sku: "tea".into(), amount }).unwrap());
        commit.rule(|proposal, _| {
            for event in proposal.events() {
                match event.decode().map_err(|error| error.to_string())? {
                    Order::Placed { amount, .. } if amount > 10 => return Err(format!("{amount} are too many")),
                    _ => {}
                }
            }
            Ok(())
        });
        store.commit(&commit)
    };
    place(10).unwrap();
    assert!(matches!(place(11), Err(Error::Refused { reason }) if reason == "11 are too many"));
}

#[test]
fn everything_that_is_known_of_an_event_comes_back() {
    let dir = Scratch::new();
    let mut store = dir.open();
    let event = NewEvent::typed(&Order::Paid)
        .unwrap()
        .id(0x6ba7_b810_9dad_11d1_80b4_00c0_4fd4_30c8)
        .occurred(Timestamp::from_nanos(17))
        .schema_version(3)
        .correlation("case 1")
        .causation(EventId::Own(4))
        .tags(["b", "a", "b"])
        .header("by", "ada")
        .header("by", "")
        .header("über", "naïve\nlines");
    store.commit(Commit::new().event("order-1", event).key("pay 1")).unwrap();
    store.append("order-1", NewEvent::new("bare", "")).unwrap();
    for _reopened in [false, true] {
        let event = store.event(Position::new(1)).unwrap().unwrap();
        assert_eq!(event.id().to_string(), "6ba7b810-9dad-11d1-80b4-00c04fd430c8");
        assert_eq!(event.occurred(), Some(Timestamp::from_nanos(17)));
        assert_eq!(event.schema_version(), 3);
        assert_eq!(event.correlation(), Some("case 1"));
        assert_eq!(event.causation(), Some(EventId::Own(4)));
        assert_eq!(event.tags().collect::<Vec<_>>(), ["b", "a", "b"]);
        let headers = [("by", "ada"), ("by", ""), ("über", "naïve\nlines")];
        assert_eq!(event.headers().collect::<Vec<_>>(), headers);
        assert_eq!(event.key(), Some("pay 1"));

        let bare = store.event(Position::new(2)).unwrap().unwrap();
        assert_eq!((bare.own_id(), bare.occurred(), bare.schema_version()), (None, None, 0));
        assert_eq!((bare.correlation(), bare.causation(), bare.key()), (None, None, None));
        assert_eq!((bare.tags().count(), bare.headers().count(), bare.payload().len()), (0, 0, 0));
        store.close().unwrap();
        store = dir.open();
    }
}

#[test]
fn a_value_without_a_name_cannot_become_an_event() {
    for refused in [NewEvent::typed(&5), NewEvent::typed(&Some("x")), NewEvent::typed_as(&Order::Paid, Codec::Raw)] {
        assert!(matches!(refused, Err(Error::Encode { .. })));
    }
}

#[cfg(feature = "json")]
#[test]
fn a_payload_can_be_shown_without_its_type() {
    let dir = Scratch::new();
    let store = dir.open();
    for codec in codecs() {
        let receipt = store.append("order-1", NewEvent::typed_as(&orders()[0], codec).unwrap()).unwrap();
        let event = store.event(receipt.first()).unwrap().unwrap();
        assert_eq!(event.json().unwrap(), serde_json::json!({ "sku": "tea", "amount": 3 }));
    }
    let raw = store.append("order-1", NewEvent::new("raw", "{}")).unwrap();
    assert!(store.event(raw.first()).unwrap().unwrap().json().is_err(), "raw bytes say nothing about themselves");
}
