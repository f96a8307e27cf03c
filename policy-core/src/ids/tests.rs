//! Numbers are given out, freed, and written down.

use super::{draft::Drafted, *};

fn assign(registry: &mut Registry<&'static str>, key: &'static str) -> Option<u32> {
    let base = registry.clone();
    let mut drafted = Drafted::of(&base);
    let id = drafted.assign(&key, |_| false);
    registry.apply(&drafted.delta(|key| key), |key| *key);
    id
}

#[test]
fn a_freed_number_is_reused_last() {
    let mut registry = Registry::new(1, 5);
    assert_eq!(assign(&mut registry, "a"), Some(1));
    assert_eq!(assign(&mut registry, "b"), Some(2));
    let base = registry.clone();
    let mut drafted = Drafted::of(&base);
    drafted.free([1, 4]);
    registry.apply(&drafted.delta(|key| key), |key| *key);
    assert_eq!(assign(&mut registry, "c"), Some(3));
    assert_eq!(assign(&mut registry, "b"), Some(2));
    assert_eq!(assign(&mut registry, "d"), Some(4));
    assert_eq!(assign(&mut registry, "e"), Some(1));
    assert_eq!(assign(&mut registry, "f"), None);
}

#[test]
fn ids_survive_being_written_down_as_a_whole_and_change_by_change() {
    let empty = Ids::default();
    let mut draft = Draft::new(&empty);
    let name = RuleName { rule: "ingress[0]".to_owned(), ..RuleName::default() };
    let rule = draft.rules.assign(&Arc::new(name.clone()), |_| false).unwrap();
    let log = draft.logs.assign(&Arc::from(vec![name.clone()]), |_| false).unwrap();
    let web = PeerName { namespace: "shop".to_owned(), name: "web".to_owned() };
    let peer = draft.assign_peer(Digest::of("peer", "web"), &web, |id| id < 7).unwrap();
    draft.place(Digest::of("class", "x"), ClassRef { offset: 3, len: 4 });
    let changes = draft.changes();
    let mut ids = empty.clone();
    ids.apply(&changes);
    assert_eq!(ids.rule(rule), Some(&name));
    assert_eq!(ids.log(log), Some([name].as_slice()));
    assert_eq!((peer, ids.peer(peer)), (7, Some(web)));
    assert_eq!(ids.peer(PEER_WORLD_V6), Some(PeerName::world()));
    assert_eq!(ids.peer(99), None);

    let whole: Ids = serde_json::from_str(&serde_json::to_string(&ids).unwrap()).unwrap();
    assert_eq!(whole, ids);
    let read: IdChanges = serde_json::from_str(&serde_json::to_string(&changes).unwrap()).unwrap();
    let mut again = empty.clone();
    again.apply(&read);
    assert_eq!(again, ids);

    let mut draft = Draft::new(&ids);
    draft.rules.free([rule]);
    draft.free_peers([peer]);
    draft.forget(ClassRef { offset: 3, len: 4 });
    let changes = draft.changes();
    assert_eq!((changes.freed_rules(), changes.freed_peers()), (&[rule][..], &[peer][..]));
    ids.apply(&changes);
    assert_eq!((ids.rule(rule), ids.peer(peer)), (None, None));
    assert_eq!(ids.class(Digest::of("class", "x")), None);
}
