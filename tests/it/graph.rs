//! The causal graph: from an event to its causes, its effects, and everything of its correlation.

use towpath::{Error, EventId, NewEvent, Position, Query, Store};

use crate::support::{Scratch, noted, positions, text};

fn names(events: &[towpath::Event<'_>]) -> Vec<String> {
    events.iter().map(|event| text(event).to_owned()).collect()
}

fn find(store: &Store, name: &str) -> EventId {
    let named = store.read(Query::new()).find(|event| text(event.as_ref().unwrap()) == name);
    named.unwrap().unwrap().id()
}

/// An order and what came of it; `invoice` and `mail` have ids of their own, the others are named by their places.
///
/// ```text
/// order ── payment ── invoice ── mail
///       └─ parcel ─── label
/// other ── reply
/// ```
fn tell_a_story(store: &Store) {
    let wide = "filler".repeat(500);
    let effect = |name: &str, id: Option<u128>, cause: Option<&str>| {
        let mut event = noted(name);
        if let Some(id) = id {
            event = event.id(id);
        }
        if let Some(cause) = cause {
            event = event.causation(find(store, cause)).correlation(if cause == "other" { "case 2" } else { "case 1" });
        }
        store.append(name, event).unwrap();
        // So much in between that the story goes over several segments.
        for _ in 0..20 {
            store.append("filler", noted(&wide)).unwrap();
        }
    };
    effect("order", None, None);
    effect("other", None, None);
    effect("payment", None, Some("order"));
    effect("parcel", None, Some("order"));
    effect("invoice", Some(77), Some("payment"));
    effect("label", None, Some("parcel"));
    effect("reply", None, Some("other"));
    effect("mail", Some(78), Some("invoice"));
}

#[test]
fn causes_come_nearest_first_and_effects_in_the_order_of_the_log() {
    let dir = Scratch::new();
    let mut store = dir.open();
    tell_a_story(&store);
    for _reopened in [false, true] {
        let causes = |name: &str| names(&store.causes(&find(&store, name)).unwrap());
        let effects = |name: &str| names(&store.effects(&find(&store, name)).unwrap());
        assert_eq!(causes("mail"), ["invoice", "payment", "order"]);
        assert_eq!(causes("label"), ["parcel", "order"]);
        assert!(causes("order").is_empty());
        assert_eq!(effects("order"), ["payment", "parcel", "invoice", "label", "mail"]);
        assert_eq!(effects("payment"), ["invoice", "mail"]);
        assert_eq!(effects("other"), ["reply"], "and nothing of the other story");
        assert!(effects("mail").is_empty());
        let correlated: Vec<_> = store.correlated("case 1").map(Result::unwrap).collect();
        assert_eq!(names(&correlated), ["payment", "parcel", "invoice", "label", "mail"]);
        let back: Vec<_> = store.correlated("case 1").backwards().limit(2).map(Result::unwrap).collect();
        assert_eq!(names(&back), ["mail", "label"]);
        assert_eq!(positions(store.correlated("case")), [0; 0]);
        store.close().unwrap();
        store = dir.open();
    }
}

#[test]
fn an_event_with_an_id_of_its_own_can_be_named_by_its_place_too() {
    let dir = Scratch::new();
    let store = dir.open();
    store.append("a", noted("cause").id(1)).unwrap();
    let place = EventId::Place { store: store.id(), position: Position::new(1) };
    store.append("a", noted("by id").causation(EventId::Own(1))).unwrap();
    store.append("a", noted("by place").causation(place)).unwrap();
    store.append("a", noted("by another id").causation(EventId::Own(2))).unwrap();
    for name in [place, EventId::Own(1)] {
        assert_eq!(names(&store.effects(&name).unwrap()), ["by id", "by place"]);
    }
    for effect in ["by id", "by place"] {
        assert_eq!(names(&store.causes(&find(&store, effect)).unwrap()), ["cause"]);
    }
}

#[test]
fn an_effect_of_two_ways_comes_once() {
    let dir = Scratch::new();
    let store = dir.open();
    store.append("a", noted("cause").id(1)).unwrap();
    store.append("a", noted("effect").id(2).causation(EventId::Own(1))).unwrap();
    // Two events of one id: the second names the first of them as its cause, and both their effects are found.
    store.append("a", noted("again").id(2).causation(EventId::Own(1))).unwrap();
    store.append("a", noted("last").causation(EventId::Own(2))).unwrap();
    assert_eq!(names(&store.effects(&EventId::Own(1)).unwrap()), ["effect", "again", "last"]);
}

#[test]
fn the_way_up_ends_at_what_is_not_in_this_store() {
    let dir = Scratch::new();
    let store = dir.open();
    let elsewhere = Scratch::new();
    let other = elsewhere.open();
    other.append("a", noted("far away")).unwrap();
    store.append("a", noted("first").causation(find(&other, "far away"))).unwrap();
    store.append("a", noted("second").causation(find(&store, "first"))).unwrap();
    assert_eq!(names(&store.causes(&find(&store, "second")).unwrap()), ["first"]);
    assert!(store.causes(&find(&other, "far away")).unwrap().is_empty(), "the same position, another store");
    assert!(store.effects(&EventId::Own(404)).unwrap().is_empty());
    assert_eq!(names(&other.effects(&find(&other, "far away")).unwrap()), [""; 0]);
}

#[test]
fn a_circle_of_causes_is_told_and_its_effects_end() {
    let dir = Scratch::new();
    let store = dir.open();
    let event = |name, id, cause| NewEvent::new("t", name).id(id).causation(EventId::Own(cause));
    store.append("a", event("one", 1, 3)).unwrap();
    store.append("a", event("two", 2, 1)).unwrap();
    assert_eq!(names(&store.causes(&EventId::Own(2)).unwrap()), ["one"], "no circle yet");
    store.append("a", event("three", 3, 2)).unwrap();
    store.append("a", event("self", 9, 9)).unwrap();
    assert!(matches!(store.causes(&EventId::Own(2)), Err(Error::CausalLoop { at: EventId::Own(2) })));
    assert!(matches!(store.causes(&EventId::Own(9)), Err(Error::CausalLoop { at: EventId::Own(9) })));
    assert_eq!(names(&store.effects(&EventId::Own(1)).unwrap()), ["two", "three"]);
    assert!(store.effects(&EventId::Own(9)).unwrap().is_empty());
}
