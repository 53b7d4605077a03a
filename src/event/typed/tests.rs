use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde::Deserialize;

use super::*;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Order {
    Opened,
    Noted(String),
    Moved(u32, Option<String>),
    Placed {
        sku: String,
        lines: Vec<Line>,
    },
    #[serde(rename = "order.shipped", alias = "Sent")]
    Shipped {
        by: Carrier,
    },
    Checked(Line),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Line {
    sku: String,
    amount: u32,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Carrier {
    Foot,
    Van(u8),
    Ship { name: String },
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Known {
    Opened,
    #[serde(other)]
    Unknown,
}

/// The codecs that this build has. All promises hold for all of them, where a test does not say otherwise.
fn codecs() -> Vec<Codec> {
    let mut codecs = named_codecs();
    if cfg!(feature = "bincode") {
        codecs.push(Codec::Bincode);
    }
    codecs
}

/// The codecs that find fields by name.
fn named_codecs() -> Vec<Codec> {
    if cfg!(feature = "json") { vec![Codec::MessagePack, Codec::Json] } else { vec![Codec::MessagePack] }
}

fn orders() -> Vec<(&'static str, Order)> {
    let line = || Line { sku: "b-1".into(), amount: 70_000 };
    vec![
        ("Opened", Order::Opened),
        ("Noted", Order::Noted("fragile".into())),
        ("Moved", Order::Moved(7, None)),
        ("Moved", Order::Moved(7, Some("left".into()))),
        ("Placed", Order::Placed { sku: "a".into(), lines: vec![line(), line()] }),
        ("Placed", Order::Placed { sku: String::new(), lines: vec![] }),
        ("order.shipped", Order::Shipped { by: Carrier::Foot }),
        ("order.shipped", Order::Shipped { by: Carrier::Van(3) }),
        ("order.shipped", Order::Shipped { by: Carrier::Ship { name: "Ada".into() } }),
        ("Checked", Order::Checked(line())),
    ]
}

fn read<T: DeserializeOwned>(name: &str, codec: Codec, payload: &[u8]) -> Result<T> {
    decode(name, codec, payload, Position::new(17))
}

/// Writes it as one type and reads it as another.
fn reread<Old: Serialize, New: DeserializeOwned>(old: &Old, codec: Codec) -> Result<New> {
    let (name, payload) = encode(old, codec)?;
    read(name, codec, &payload)
}

fn returns<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: T) {
    for codec in named_codecs() {
        assert_eq!(reread::<T, T>(&value, codec).unwrap(), value, "{codec}");
    }
}

fn field_and_reason<T: Debug>(result: Result<T>) -> (Option<String>, String) {
    match result.unwrap_err() {
        Error::Decode { position, field, why, .. } => {
            assert_eq!(position, Position::new(17));
            (field, why)
        }
        other => panic!("{other}"),
    }
}

fn refusal<T: Serialize>(value: &T) -> String {
    match encode(value, Codec::MessagePack).unwrap_err() {
        Error::Encode { why, .. } => why,
        other => panic!("{other}"),
    }
}

#[test]
fn all_kinds_of_variants_come_back_under_their_own_names() {
    for codec in codecs() {
        for (name, order) in orders() {
            let (written, payload) = encode(&order, codec).unwrap();
            assert_eq!(written, name, "{codec}");
            assert_eq!(read::<Order>(name, codec, &payload).unwrap(), order, "{codec}");
        }
    }
}

#[test]
fn the_payload_is_the_content_of_the_variant_and_nothing_else() {
    let payload = |order: &Order, codec| encode(order, codec).unwrap().1;
    assert_eq!(payload(&Order::Opened, Codec::MessagePack), [0xc0]);
    assert_eq!(payload(&Order::Noted("hi".into()), Codec::MessagePack), b"\xa2hi");
    assert_eq!(payload(&Order::Moved(1, None), Codec::MessagePack), b"\x92\x01\xc0");
    let shipped = payload(&Order::Shipped { by: Carrier::Van(3) }, Codec::MessagePack);
    assert_eq!(shipped, b"\x81\xa2by\x81\xa3Van\x03");
    if cfg!(feature = "json") {
        assert_eq!(payload(&Order::Opened, Codec::Json), b"null");
        assert_eq!(payload(&Order::Noted("hi".into()), Codec::Json), br#""hi""#);
        assert_eq!(payload(&Order::Moved(1, None), Codec::Json), b"[1,null]");
        assert_eq!(payload(&Order::Shipped { by: Carrier::Van(3) }, Codec::Json), br#"{"by":{"Van":3}}"#);
    }
}

#[test]
fn an_alias_reads_events_written_under_the_old_name() {
    for codec in codecs() {
        let (_, payload) = encode(&Order::Shipped { by: Carrier::Foot }, codec).unwrap();
        assert_eq!(read::<Order>("Sent", codec, &payload).unwrap(), Order::Shipped { by: Carrier::Foot });
        assert!(read::<Order>("Shipped", codec, &payload).is_err(), "the Rust name is not the event's");
    }
}

#[derive(Serialize)]
enum V1 {
    Added { first: u8, second: u8 },
    Bare,
}

#[derive(Debug, PartialEq, Deserialize)]
enum V2 {
    Added {
        first: u8,
        #[serde(default)]
        middle: Option<String>,
        #[serde(rename = "zweites", alias = "second")]
        second: u8,
        #[serde(default)]
        last: u8,
    },
    Bare {
        #[serde(default)]
        now_with: u8,
    },
}

#[test]
fn fields_added_in_the_middle_and_at_the_end_keep_history_readable() {
    for codec in named_codecs() {
        let new: V2 = reread(&V1::Added { first: 1, second: 2 }, codec).unwrap();
        assert_eq!(new, V2::Added { first: 1, middle: None, second: 2, last: 0 }, "{codec}");
    }
}

#[test]
fn a_unit_variant_may_become_one_with_fields_and_back() {
    for codec in named_codecs() {
        assert_eq!(reread::<V1, V2>(&V1::Bare, codec).unwrap(), V2::Bare { now_with: 0 }, "{codec}");
        let placed = Order::Placed { sku: "a".into(), lines: vec![] };
        #[derive(Debug, PartialEq, Deserialize)]
        enum Less {
            Placed,
        }
        assert_eq!(reread::<Order, Less>(&placed, codec).unwrap(), Less::Placed, "{codec}");
    }
}

#[cfg(feature = "bincode")]
#[test]
fn bincode_loses_history_with_an_added_field_as_its_documentation_says() {
    let (field, why) = field_and_reason(reread::<V1, V2>(&V1::Added { first: 1, second: 2 }, Codec::Bincode));
    assert_eq!(field.as_deref(), Some("middle"), "{why}");
}

#[test]
fn other_catches_unknown_types_whatever_their_payload_is() {
    for codec in codecs().into_iter().chain([Codec::Raw, Codec::Json, Codec::Bincode]) {
        for payload in [&b""[..], b"\xc0", b"null", b"{\"a\":", b"\xff\xff\xff", b"plain text"] {
            assert_eq!(read::<Known>("never.heard.of", codec, payload).unwrap(), Known::Unknown, "{codec}");
            assert_eq!(read::<Known>("Opened", codec, payload).unwrap(), Known::Opened, "{codec}");
        }
    }
}

#[test]
fn an_unknown_type_is_an_error_that_names_the_known_ones() {
    for codec in codecs() {
        let (field, why) = field_and_reason(read::<Order>("Paid", codec, b"\xc0"));
        assert_eq!(field, None);
        assert!(why.contains("`Paid`") && why.contains("`Placed`") && why.contains("`order.shipped`"), "{why}");
    }
}

#[test]
fn a_payload_that_does_not_fit_names_the_field() {
    #[derive(Serialize)]
    enum Wrong {
        Placed { sku: String, lines: Vec<BadLine> },
    }
    #[derive(Serialize)]
    struct BadLine {
        sku: String,
        amount: Option<&'static str>,
    }
    let line = |amount| BadLine { sku: "x".into(), amount };
    for codec in named_codecs() {
        let wrong = Wrong::Placed { sku: "a".into(), lines: vec![line(Some("many"))] };
        let (field, why) = field_and_reason(reread::<Wrong, Order>(&wrong, codec));
        assert_eq!(field.as_deref(), Some("lines[0].amount"), "{codec}: {why}");
        assert!(why.contains("string \"many\"") || why.contains("FixStr"), "{codec}: {why}");
    }
}

#[cfg(feature = "bincode")]
#[test]
fn bincode_errors_name_the_field_too() {
    // sku "a"; two lines, of which the second one ends within its amount.
    let payload = [1, b'a', 2, 1, b'x', 5, 1, b'y'];
    let (field, why) = field_and_reason(read::<Order>("Placed", Codec::Bincode, &payload));
    assert_eq!((field.as_deref(), &*why), (Some("lines[1].amount"), "the payload ends within a value"));
}

#[cfg(feature = "bincode")]
#[test]
fn the_limit_of_bincode_refuses_no_payload_that_may_be_stored() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Numbers(Vec<u128>);
    // A byte each in the payload, and 16 each by bincode's count.
    let numbers = Numbers(vec![1; 3 << 19]);
    assert_eq!(reread::<Numbers, Numbers>(&numbers, Codec::Bincode).unwrap(), numbers);
}

#[test]
fn a_missing_field_is_named_with_its_path() {
    #[derive(Serialize)]
    enum Wrong {
        Placed { sku: &'static str, lines: Vec<BTreeMap<&'static str, &'static str>> },
    }
    for codec in named_codecs() {
        let wrong = Wrong::Placed { sku: "a", lines: vec![[("sku", "x")].into()] };
        let (field, why) = field_and_reason(reread::<Wrong, Order>(&wrong, codec));
        assert_eq!(field.as_deref(), Some("lines[0].amount"), "{codec}: {why}");
        assert!(why.starts_with("missing field `amount`"), "{codec}: {why}");
        let (field, _) = field_and_reason(read::<Order>("Placed", Codec::MessagePack, b"\x80"));
        assert_eq!(field.as_deref(), Some("sku"));
    }
}

#[test]
fn a_field_that_nobody_knows_is_named_where_unknown_fields_are_denied() {
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Strict {
        #[expect(dead_code, reason = "only read by Debug")]
        a: u8,
    }
    let (field, why) = field_and_reason(read::<Strict>("Strict", Codec::MessagePack, b"\x82\xa1a\x01\xa1b\x02"));
    assert_eq!(field.as_deref(), Some("b"), "{why}");
    let (field, _) = field_and_reason(read::<Strict>("Strict", Codec::MessagePack, b"\x82\xa1a\x01\xa1a\x02"));
    assert_eq!(field.as_deref(), Some("a"));
}

#[test]
fn a_failure_that_the_type_made_up_for_is_not_blamed_later() {
    #[derive(Debug)]
    struct Lenient;
    impl<'de> Deserialize<'de> for Lenient {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let _ = Vec::<u8>::deserialize(deserializer);
            Ok(Lenient)
        }
    }
    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only read by Debug")]
    struct Both {
        a: Lenient,
        b: String,
    }
    // {"a": [true], "b": 1}: `a` fails inside and goes on, `b` fails for good.
    let (field, why) = field_and_reason(read::<Both>("Both", Codec::MessagePack, b"\x82\xa1a\x91\xc3\xa1b\x01"));
    assert_eq!(field.as_deref(), Some("b"), "{why}");
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename = "cart.opened")]
struct CartOpened {
    by: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Nothing;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Meters(f64);

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Pair(u8, String);

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
struct Boxed(Box<Order>);

#[test]
fn structs_are_events_of_their_own_name() {
    returns(CartOpened { by: "me".into() });
    returns(Nothing);
    returns(Meters(1.5));
    returns(Pair(1, "b".into()));
    returns(Boxed(Box::new(Order::Opened)));
    assert_eq!(encode(&CartOpened { by: "me".into() }, Codec::MessagePack).unwrap().0, "cart.opened");
    assert_eq!(encode(&Boxed(Box::new(Order::Opened)), Codec::MessagePack).unwrap().0, "Opened");
}

#[test]
fn an_event_is_not_read_as_another_struct_with_the_same_fields() {
    let (_, why) = field_and_reason(read::<CartOpened>("cart.closed", Codec::MessagePack, b"\x81\xa2by\xa1a"));
    assert_eq!(why, r#"the event is a "cart.closed", not a "cart.opened""#);
    for result in [
        read::<Nothing>("x", Codec::MessagePack, b"\xc0").map(|_| ()),
        read::<Meters>("x", Codec::MessagePack, b"\x01").map(|_| ()),
        read::<Pair>("x", Codec::MessagePack, b"\x92\x01\xa0").map(|_| ()),
    ] {
        assert!(field_and_reason(result).1.starts_with(r#"the event is a "x", not a"#));
    }
}

#[test]
fn values_without_a_name_are_refused_with_a_reason() {
    assert!(refusal(&1_u8).starts_with("a number has no name"));
    assert!(refusal(&"text").starts_with("a string"));
    assert!(refusal(&Some(Order::Opened)).starts_with("an Option"));
    assert!(refusal(&None::<Order>).starts_with("an Option"));
    assert!(refusal(&vec![Order::Opened]).starts_with("a sequence"));
    assert!(refusal(&(1, 2)).starts_with("a tuple"));
    assert!(refusal(&()).starts_with("a unit"));
    assert!(refusal(&BTreeMap::from([(1, 2)])).starts_with("a map"));
    assert!(field_and_reason(read::<Option<Order>>("Opened", Codec::MessagePack, b"\xc0")).1.contains("an enum"));
    let error = encode(&Order::Opened, Codec::Raw).unwrap_err();
    assert!(error.to_string().contains("the raw codec holds bytes only"), "{error}");
}

#[test]
fn a_codec_that_is_not_built_in_says_which_feature_it_needs() {
    for (codec, built_in) in [(Codec::Json, cfg!(feature = "json")), (Codec::Bincode, cfg!(feature = "bincode"))] {
        if !built_in {
            let feature = format!("the feature `{codec}`");
            assert!(encode(&Order::Opened, codec).unwrap_err().to_string().contains(&feature));
            assert!(field_and_reason(read::<Order>("Noted", codec, b"")).1.contains(&feature));
        }
    }
    assert!(field_and_reason(read::<Order>("Noted", Codec::Raw, b"")).1.contains("raw bytes"));
}

#[test]
fn enums_with_tags_are_stored_as_the_structs_that_they_look_like() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "kind")]
    enum Inside {
        Unit,
        Struct { a: u8 },
        Newtype(Line),
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "t", content = "c")]
    enum Beside {
        Unit,
        Struct { a: u8 },
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(untagged)]
    enum Untagged {
        Struct { a: u8 },
    }
    let line = || Line { sku: "x".into(), amount: 1 };
    returns(Inside::Unit);
    returns(Inside::Struct { a: 1 });
    returns(Inside::Newtype(line()));
    returns(Beside::Unit);
    returns(Beside::Struct { a: 1 });
    returns(Untagged::Struct { a: 1 });
    assert_eq!(encode(&Inside::Struct { a: 1 }, Codec::MessagePack).unwrap().0, "Inside");
    assert_eq!(encode(&Inside::Newtype(line()), Codec::MessagePack).unwrap().0, "Line");
    assert_eq!(encode(&Beside::Unit, Codec::MessagePack).unwrap().0, "Beside");
}

#[test]
fn flattened_fields_work_within_a_variant_and_are_refused_at_the_top() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct More {
        a: u8,
        #[serde(flatten)]
        line: Line,
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Outer {
        Flat {
            b: u8,
            #[serde(flatten)]
            line: Line,
        },
        Newtype(More),
    }
    let line = || Line { sku: "x".into(), amount: 1 };
    returns(Outer::Flat { b: 1, line: line() });
    returns(Outer::Newtype(More { a: 1, line: line() }));
    assert!(refusal(&More { a: 1, line: line() }).contains("flatten"));
}

#[test]
fn bytes_behind_the_value_are_refused() {
    for codec in codecs() {
        for (name, order) in orders().into_iter().filter(|(_, order)| *order != Order::Opened) {
            for extra in [&b"\xc0"[..], b"\x91", b"\xc1", b"\xdd", b" 1", b"\x00"] {
                let mut payload = encode(&order, codec).unwrap().1;
                payload.extend(extra);
                let (_, why) = field_and_reason(read::<Order>(name, codec, &payload));
                assert_eq!(why, "bytes are left over behind the value", "{codec} {order:?} {extra:?}");
            }
        }
    }
}

#[test]
fn every_cut_payload_is_an_error() {
    for codec in codecs() {
        for (name, order) in orders().into_iter().filter(|(_, order)| *order != Order::Opened) {
            let payload = encode(&order, codec).unwrap().1;
            for end in 0..payload.len() {
                assert!(read::<Order>(name, codec, &payload[..end]).is_err(), "{codec} {order:?} {end}");
            }
        }
    }
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "only read by Debug")]
enum Forged {
    Text(String),
    Bytes(Vec<u8>),
    Large(Vec<[u64; 16]>),
    Units(Vec<()>),
    Map(BTreeMap<String, String>),
    Field { text: String },
    Hint(Hint),
}

/// A type that trusts size hints, as those of some libraries do.
#[derive(Debug)]
struct Hint;

impl<'de> Deserialize<'de> for Hint {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Trusting;
        impl<'de> serde::de::Visitor<'de> for Trusting {
            type Value = Hint;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a sequence")
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Hint, A::Error> {
                assert!(seq.size_hint().is_none_or(|hint| hint <= 32), "{:?}", seq.size_hint());
                while seq.next_element::<u8>()?.is_some() {}
                Ok(Hint)
            }
        }
        deserializer.deserialize_seq(Trusting)
    }
}

#[test]
fn a_forged_length_is_refused_at_once() {
    let names = ["Text", "Bytes", "Large", "Units", "Map", "Hint"];
    let mut payloads = vec![];
    for marker in [0xdb_u8, 0xc6, 0xdd, 0xdf, 0xc9] {
        payloads.push((Codec::MessagePack, vec![marker, 0xff, 0xff, 0xff, 0xff]));
        payloads.push((Codec::MessagePack, vec![marker, 0x00, 0xff, 0xff, 0xff]));
    }
    if cfg!(feature = "bincode") {
        payloads.push((Codec::Bincode, [&[253_u8][..], &[0xff; 8]].concat()));
        payloads.push((Codec::Bincode, [&[253_u8][..], &[0xff; 7], &[0x7f]].concat()));
        payloads.push((Codec::Bincode, vec![252, 0xff, 0xff, 0xff, 0x7f]));
        payloads.push((Codec::Bincode, vec![252, 0xff, 0xff, 0xff, 0x00, 1, 2, 3]));
    }
    let start = Instant::now();
    for (codec, payload) in &payloads {
        for name in names {
            let result = read::<Forged>(name, *codec, payload);
            // Units take no bytes in bincode, so a number of them that a payload could hold is no lie.
            assert!(result.is_err() || (name, *codec) == ("Units", Codec::Bincode), "{codec} {name} {payload:x?}");
        }
    }
    for codec in codecs() {
        assert!(read::<Forged>("Field", codec, b"\x81\xa4text\xdb\xff\xff\xff\xff").is_err());
    }
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Tree {
    Leaf,
    Node(Box<Tree>),
    Many(Vec<Tree>),
    Named { below: Box<Tree> },
    Chain(Chain),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Chain(Option<Box<Chain>>);

fn tree(depth: usize) -> Tree {
    (0..depth).fold(Tree::Leaf, |below, _| Tree::Node(Box::new(below)))
}

#[test]
fn deep_values_come_back_up_to_the_limit_and_are_refused_beyond_it() {
    for codec in codecs() {
        // The event itself takes no level, and the leaf one.
        let limit = usize::from(guard::MAX_DEPTH);
        let deepest = if codec == Codec::Json { limit - 2 } else { limit - 1 };
        assert_eq!(reread::<Tree, Tree>(&tree(deepest), codec).unwrap(), tree(deepest), "{codec}");
        assert!(reread::<Tree, Tree>(&tree(limit + 2), codec).is_err(), "{codec}");
    }
}

#[test]
fn bottomless_payloads_end_in_an_error_and_not_in_the_stack() {
    let mut payloads = vec![
        (Codec::MessagePack, "Node", b"\x81\xa4Node".repeat(1 << 20)),
        (Codec::MessagePack, "Many", b"\x91\x81\xa4Many".repeat(1 << 20)),
        (Codec::MessagePack, "Named", b"\x81\xa5below\x81\xa5Named".repeat(1 << 20)),
        (Codec::MessagePack, "Chain", b"\x01".to_vec()), // an Option of an Option of an Option…
        (Codec::MessagePack, "Ignored", [b"\x81\xa3new", &*b"\x91".repeat(1 << 20)].concat()),
    ];
    if cfg!(feature = "json") {
        // What is ignored needs no guard here, as serde_json skips it without recursion.
        payloads.push((Codec::Json, "Node", br#"{"Node":"#.repeat(1 << 20)));
        payloads.push((Codec::Json, "Many", br#"[{"Many":"#.repeat(1 << 20)));
        payloads.push((Codec::Json, "Chain", b"1".to_vec()));
    }
    if cfg!(feature = "bincode") {
        payloads.push((Codec::Bincode, "Node", [1].repeat(1 << 20)));
        payloads.push((Codec::Bincode, "Many", [1, 2].repeat(1 << 20)));
        payloads.push((Codec::Bincode, "Named", [3].repeat(1 << 20)));
        payloads.push((Codec::Bincode, "Chain", [1].repeat(1 << 20)));
    }
    for (codec, name, payload) in payloads {
        let why = match name {
            "Ignored" => field_and_reason(read::<Line>("Line", codec, &payload)).1,
            _ => field_and_reason(read::<Tree>(name, codec, &payload)).1,
        };
        // JSON's own limit comes first where it counts the same things.
        assert!(why.contains("deeper than 128") || why.contains("recursion limit"), "{codec} {name}: {why}");
    }
}

#[test]
fn the_content_alone_can_be_read_whatever_the_type_is_called() {
    for codec in codecs() {
        let (name, payload) = encode(&Order::Checked(Line { sku: "x".into(), amount: 1 }), codec).unwrap();
        let line: Line = content(name, codec, &payload, Position::START).unwrap();
        assert_eq!(line.amount, 1);
        let (name, payload) = encode(&Order::Opened, codec).unwrap();
        content::<()>(name, codec, &payload, Position::START).unwrap();
    }
}

#[cfg(feature = "json")]
#[test]
fn payloads_show_as_json_where_they_describe_themselves() {
    let order = Order::Placed { sku: "a".into(), lines: vec![Line { sku: "x".into(), amount: 1 }] };
    for codec in named_codecs() {
        let (name, payload) = encode(&order, codec).unwrap();
        let value = json(name, codec, &payload, Position::START).unwrap();
        assert_eq!(value.to_string(), r#"{"lines":[{"amount":1,"sku":"x"}],"sku":"a"}"#, "{codec}");
    }
    assert!(json("a", Codec::Raw, b"1", Position::START).is_err());
    assert!(json("a", Codec::Bincode, b"1", Position::START).is_err());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(payload in prop::collection::vec(any::<u8>(), 0..200), name in 0..14_usize) {
        let names = [
            "Opened", "Noted", "Moved", "Placed", "order.shipped", "Sent", "Checked", "Text", "Bytes", "Large", "Map",
            "Many", "Chain", "",
        ];
        for codec in [Codec::Raw, Codec::MessagePack, Codec::Json, Codec::Bincode] {
            let _ = read::<Order>(names[name], codec, &payload);
            let _ = read::<Known>(names[name], codec, &payload);
            let _ = read::<Forged>(names[name], codec, &payload);
            let _ = read::<Tree>(names[name], codec, &payload);
            let _ = read::<serde::de::IgnoredAny>(names[name], codec, &payload);
            let _ = content::<BTreeMap<String, Option<f64>>>(names[name], codec, &payload, Position::START);
            let _ = content::<serde_json::Value>(names[name], codec, &payload, Position::START);
        }
    }

    #[test]
    fn what_was_written_comes_back(sku in ".*", amounts in prop::collection::vec(any::<u32>(), 0..9), at in any::<u32>()) {
        let lines = amounts.into_iter().map(|amount| Line { sku: sku.clone(), amount }).collect();
        let orders = [Order::Placed { sku: sku.clone(), lines }, Order::Moved(at, Some(sku))];
        for codec in codecs() {
            for order in &orders {
                prop_assert_eq!(&reread::<Order, Order>(order, codec).unwrap(), order);
            }
        }
    }
}
