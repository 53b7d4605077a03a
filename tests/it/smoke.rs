use std::time::Duration;
use towpath::*;
#[test]
fn smoke() {
    for d in [Durability::Sync, Durability::Os, Durability::Every(Duration::from_millis(5))] {
        let dir =
            std::env::temp_dir().join(format!("tp-smoke-{}-{:?}", std::process::id(), std::mem::discriminant(&d)));
        let _ = std::fs::remove_dir_all(&dir);
        let store = Options::new().durability(d).segment_bytes(256 << 10).open(&dir).unwrap();
        for i in 0..20_000u32 {
            let mut c = Commit::new();
            c.event(&format!("s-{}", i % 100), NewEvent::new("t", &i.to_le_bytes()).tag(format!("tag{}", i % 1000)));
            store.submit(&c).unwrap();
        }
        let r = store.append("last-1", NewEvent::new("end", b"x")).unwrap();
        assert_eq!(r.first().get(), 20_001);
        for pass in 0..2 {
            let store = if pass == 0 {
                store.clone()
            } else {
                store.clone().close().unwrap();
                let s = Options::new().durability(d).segment_bytes(256 << 10).open(&dir).unwrap();
                assert!(s.recovery().clean, "{:?}", s.recovery());
                s
            };
            assert_eq!(
                store.read(Query::new()).map(|e| e.unwrap().position().get()).collect::<Vec<_>>(),
                (1..=20_001).collect::<Vec<_>>()
            );
            assert_eq!(
                store.read(Query::new()).backwards().map(|e| e.unwrap().position().get()).collect::<Vec<_>>(),
                (1..=20_001).rev().collect::<Vec<_>>()
            );
            assert_eq!(
                store.read(Query::new().stream("s-7")).map(|e| e.unwrap().revision().get()).collect::<Vec<_>>(),
                (1..=200).collect::<Vec<_>>()
            );
            assert_eq!(store.read(Query::new().tags(["tag5"])).backwards().count(), 20);
            assert_eq!(store.revision("s-99").unwrap().get(), 200);
            assert_eq!(store.event(Position::new(777)).unwrap().unwrap().position().get(), 777);
            let mut c = store.cursor("c").open().unwrap();
            let mut n = 0;
            loop {
                let b = c.pull_batch(64, Duration::ZERO).unwrap();
                if b.is_empty() {
                    break;
                }
                n += b.len();
                c.settle(b.last().unwrap(), Settlement::Done).unwrap();
            }
            assert_eq!(n, if pass == 0 { 20_001 } else { 0 });
            c.flush().unwrap();
            if pass == 1 {
                drop(c);
                store.close().unwrap();
            }
        }
        let v = inspect::verify(&dir, |_| {}).unwrap();
        assert!(v.ok, "{v:?}");
        println!("{:?}", inspect::summary(&dir).unwrap());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
