//! What `dead export --as-test` prints, see `cli_consumers.rs`.

// A dead letter of group Mail-out: rejected, attempts 1.
// Its event is cart-1@1, which stood at position 1. The last failure said:
// no address
#[test]
fn dead_letter_3_of_mail_out_is_handled() {
    use std::sync::Arc;
    use std::time::Duration;
    use towpath::{Canal, Codec, Delivery, Durability, ManualClock, NewEvent, Options, Timestamp};

    fn handle(delivery: &Delivery<'_>) -> Result<(), String> {
        // Call your handler here; until then this test proves nothing.
        let _ = delivery;
        Ok(())
    }

    let event = NewEvent::encoded("scanned", Codec::Raw, b"\x00\xff".as_slice());
    let dir = std::env::temp_dir().join(format!("towpath-dead-letter-3-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    let clock = Arc::new(ManualClock::at(Timestamp::from_nanos(1000000000)));
    let store = Options::new().durability(Durability::Os).clock(clock).open(&dir).unwrap();
    store.append("cart-1", event).unwrap();
    let mut cursor = store.cursor("replay").open().unwrap();
    let batch = cursor.pull_batch(1, Duration::ZERO).unwrap();
    let handled = handle(&batch.get(0).unwrap());
    drop((batch, cursor));
    store.close().unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    assert_eq!(handled, Ok(()));
}

// A dead letter of group Mail-out: rejected, attempts 1.
// Its event is cart-"\1{}@1, which stood at position 2. The last failure said:
// one\ntwo */ \u{202e}
#[test]
fn dead_letter_4_of_mail_out_is_handled() {
    use std::sync::Arc;
    use std::time::Duration;
    use towpath::{Canal, Codec, Delivery, Durability, ManualClock, NewEvent, Options, Timestamp};

    fn handle(delivery: &Delivery<'_>) -> Result<(), String> {
        crate::cli_consumers::seen(delivery)
    }

    let event = NewEvent::encoded("pa\"id\\", Codec::Json, "{\"said\": \"\u{202e}'\\u0000\\\"#\",\n\"é\": r#\"}".as_bytes())
        .id(0x00000000000000000000000000000007)
        .occurred(Timestamp::from_nanos(5))
        .schema_version(3)
        .correlation("order \"9\"")
        .causation("00000000-0000-0000-0000-000000000008".parse().unwrap())
        .tag("it's \u{2067}so")
        .tag("shop:7")
        .header("by", "{web}")
        .header("$own", "*/ \" // é");
    let dir = std::env::temp_dir().join(format!("towpath-dead-letter-4-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    let clock = Arc::new(ManualClock::at(Timestamp::from_nanos(1000000000)));
    let store = Options::new().durability(Durability::Os).clock(clock).open(&dir).unwrap();
    store.append("cart-\"\\1{}", event).unwrap();
    let mut cursor = store.cursor("replay").open().unwrap();
    let batch = cursor.pull_batch(1, Duration::ZERO).unwrap();
    let handled = handle(&batch.get(0).unwrap());
    drop((batch, cursor));
    store.close().unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    assert_eq!(handled, Ok(()));
}
