//! `towpath stream`: what would go of a stream, and removing it. The binary runs as a process of its own.

use serde_json::json;
use towpath::{NewEvent, Query, Revision, Store};

use crate::cli::{STORE, names, run};
use crate::support::{Scratch, positions};

/// Nine events of a cart, of three kinds and about two things, and one order.
fn store_of_a_cart(scratch: &Scratch) {
    let store = scratch.open();
    for number in 0..9 {
        let event =
            NewEvent::new(["opened", "added", "closed"][number % 3], "{}").tag(["sku:tea", "sku:milk"][number % 2]);
        store.append("cart-1", event).unwrap();
    }
    store.append("order-1", NewEvent::new("placed", "{}")).unwrap();
    store.close().unwrap();
}

fn left(scratch: &Scratch) -> Vec<u64> {
    positions(Store::open_read_only(scratch.store_path()).unwrap().read(Query::new()))
}

#[test]
fn it_tells_what_would_go_and_removes_it_when_that_is_said() {
    for (verb, more, goes, kept) in [
        ("truncate", &["--before", "4"][..], 3, vec![4, 5, 6, 7, 8, 9, 10]),
        ("delete", &[][..], 9, vec![10]),
        ("compact", &["--by", "type"][..], 6, vec![7, 8, 9, 10]),
        ("compact", &["--by", "tag:sku:"][..], 7, vec![8, 9, 10]),
        ("compact", &["--by", "header:none"][..], 0, (1..=10).collect()),
    ] {
        let scratch = Scratch::new();
        store_of_a_cart(&scratch);
        let said = |last: &[&str]| {
            let said = [&["stream", verb, STORE, "cart-1"][..], more, last].concat();
            run(&scratch, &said).ends(0)
        };
        let told = said(&["--json"]).object();
        assert_eq!(names(&told), ["bytes", "done", "events", "kept", "left", "revision", "segments", "stream"]);
        assert_eq!((&told["done"], &told["events"], &told["kept"]), (&json!(false), &json!(goes), &json!(9 - goes)));
        assert_eq!(left(&scratch).len(), 10, "control: nothing was changed");
        let done = said(&["--json", "--yes"]).object();
        assert_eq!((&done["done"], &done["events"], &done["kept"]), (&json!(true), &json!(goes), &json!(9 - goes)));
        assert_eq!(done["segments"], json!(u64::from(goes > 0)), "{verb}");
        assert_eq!(left(&scratch), kept, "{verb} {more:?}");
        run(&scratch, &["verify", STORE]).ends(0);
    }
}

#[test]
fn it_says_so_in_words_and_refuses_what_is_not_there_or_held() {
    let scratch = Scratch::new();
    store_of_a_cart(&scratch);
    let text = run(&scratch, &["stream", "delete", STORE, "cart-1"]).ends(0).out;
    assert_eq!(
        text,
        "9 events would go of cart-1, which stood at revision 9; 0 are kept\nnothing was changed; say it with --yes\n"
    );
    run(&scratch, &["stream", "delete", STORE, "cart-2", "--yes"]).ends(1);
    run(&scratch, &["stream", "compact", STORE, "cart-1", "--by", "payload"]).ends(2);
    let store = scratch.open();
    run(&scratch, &["stream", "delete", STORE, "cart-1"]).ends(0);
    run(&scratch, &["stream", "delete", STORE, "cart-1", "--yes"]).ends(2);
    assert_eq!(store.revision("cart-1").unwrap(), Revision::new(9));
    store.close().unwrap();
    run(&scratch, &["stream", "delete", STORE, "cart-1", "--yes"]).ends(0);
    run(&scratch, &["stream", "delete", STORE, "cart-1", "--yes"]).ends(1);
}
