use super::*;

fn link(ifindex: u32, kind: LinkKind, peer: Option<u32>) -> Link {
    Link {
        ifindex,
        name: format!("if{ifindex}"),
        kind,
        master: None,
        link: peer,
        link_netnsid: None,
        mac: None,
        up: false,
    }
}

fn events(state: &mut State, message: Message) -> Vec<LinkEvent> {
    let mut queue = VecDeque::new();
    state.apply(message, &mut queue);
    queue.into()
}

#[test]
fn only_real_changes_are_reported() {
    let mut state = State::default();
    let new = link(5, LinkKind::Veth, None);
    assert_eq!(events(&mut state, Message::NewLink(new.clone())), [LinkEvent::New(new.clone())]);
    assert_eq!(events(&mut state, Message::NewLink(new.clone())), []);
    let up = Link { up: true, ..new };
    assert_eq!(events(&mut state, Message::NewLink(up.clone())), [LinkEvent::New(up)]);
    let gone = || Message::DelLink { ifindex: 5, moved: None };
    assert_eq!(events(&mut state, gone()), [LinkEvent::Gone { ifindex: 5 }]);
    assert_eq!(events(&mut state, gone()), []);
}

#[test]
fn the_end_that_stays_learns_where_the_other_went() {
    let mut state = State::default();
    let left = link(5, LinkKind::Veth, Some(6));
    events(&mut state, Message::NewLink(left.clone()));
    let stays = link(6, LinkKind::Veth, Some(5));
    events(&mut state, Message::NewLink(stays.clone()));
    events(&mut state, Message::NewLink(link(7, LinkKind::Other, Some(5))));
    let moved = Link { link: Some(2), link_netnsid: Some(3), ..stays };
    assert_eq!(
        events(&mut state, Message::DelLink { ifindex: 5, moved: Some((3, 2)) }),
        [
            LinkEvent::Gone { ifindex: 5 },
            LinkEvent::Moved { link: left, nsid: 3, ifindex: 2 },
            LinkEvent::New(moved)
        ]
    );
}

#[test]
fn where_a_macvlan_went_is_reported_and_where_others_went_is_not() {
    let mut state = State::default();
    let macvlan = link(5, LinkKind::Macvlan, Some(2));
    events(&mut state, Message::NewLink(macvlan.clone()));
    events(&mut state, Message::NewLink(link(6, LinkKind::Other, None)));
    assert_eq!(
        events(&mut state, Message::DelLink { ifindex: 5, moved: Some((3, 9)) }),
        [LinkEvent::Gone { ifindex: 5 }, LinkEvent::Moved { link: macvlan, nsid: 3, ifindex: 9 }]
    );
    assert_eq!(
        events(&mut state, Message::DelLink { ifindex: 6, moved: Some((3, 6)) }),
        [LinkEvent::Gone { ifindex: 6 }]
    );
}

#[test]
fn a_resync_reports_differences_only() {
    let mut state = State::default();
    let mut queue = VecDeque::new();
    let address: IpAddr = "10.0.0.1".parse().unwrap();
    let (kept, lost) = (link(1, LinkKind::Other, None), link(2, LinkKind::Bridge, None));
    state.replace(vec![kept.clone(), lost], vec![(1, address)], &mut queue);
    queue.clear();
    let fresh = link(3, LinkKind::Veth, None);
    state.replace(vec![kept, fresh.clone()], vec![], &mut queue);
    let reported: Vec<LinkEvent> = queue.into();
    assert_eq!(
        reported,
        [
            LinkEvent::Gone { ifindex: 2 },
            LinkEvent::New(fresh),
            LinkEvent::HostAddress { address, ifindex: 1, added: false },
            LinkEvent::Synced,
        ]
    );
}
