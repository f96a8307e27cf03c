use super::*;

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap();
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn message(kind: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + payload.len()).unwrap();
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(0_u16.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend(payload);
    bytes
}

fn ifinfomsg(family: u8, ifindex: i32, flags: u32) -> Vec<u8> {
    let mut bytes = vec![family, 0, 1, 0];
    bytes.extend(ifindex.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes
}

fn one(bytes: &[u8]) -> Result<Message, DecodeError> {
    let mut all = messages(bytes);
    let (_, first) = all.next().unwrap();
    assert!(all.next().is_none());
    first
}

fn host_veth(family: u8) -> Vec<u8> {
    let mut payload = ifinfomsg(family, 6, 1);
    payload.extend(attribute(libc::IFLA_IFNAME, b"veth1\0"));
    payload.extend(attribute(libc::IFLA_ADDRESS, &[2, 0, 0, 0, 0, 9]));
    payload.extend(attribute(libc::IFLA_LINK, &5_u32.to_ne_bytes()));
    payload.extend(attribute(libc::IFLA_MASTER, &2_u32.to_ne_bytes()));
    payload.extend(attribute(libc::IFLA_LINK_NETNSID, &3_i32.to_ne_bytes()));
    payload.extend(attribute(libc::IFLA_LINKINFO, &attribute(libc::IFLA_INFO_KIND, b"veth\0")));
    // One that no library knows, of a size that no library expects.
    payload.extend(attribute(0x1fff, &[1, 2, 3]));
    payload
}

#[test]
fn a_host_veth() {
    assert_eq!(
        one(&message(libc::RTM_NEWLINK, 0, &host_veth(0))).unwrap(),
        Message::NewLink(Link {
            ifindex: 6,
            name: "veth1".to_owned(),
            kind: LinkKind::Veth,
            master: Some(2),
            link: Some(5),
            link_netnsid: Some(3),
            mac: Some([2, 0, 0, 0, 0, 9]),
            up: true,
        })
    );
}

#[test]
fn a_port_that_leaves_its_bridge_is_not_gone() {
    let bridge_family = u8::try_from(libc::AF_BRIDGE).unwrap();
    let bytes = message(libc::RTM_DELLINK, 0, &host_veth(bridge_family));
    assert_eq!(one(&bytes).unwrap(), Message::Other);
}

#[test]
fn an_interface_that_moves_away() {
    let mut payload = ifinfomsg(0, 5, 0);
    payload.extend(attribute(IFLA_NEW_NETNSID, &7_i32.to_ne_bytes()));
    let bytes = message(libc::RTM_DELLINK, 0, &payload);
    assert_eq!(one(&bytes).unwrap(), Message::DelLink { ifindex: 5, moved: Some((7, 5)) });
    payload.extend(attribute(IFLA_NEW_IFINDEX, &2_u32.to_ne_bytes()));
    let bytes = message(libc::RTM_DELLINK, 0, &payload);
    assert_eq!(one(&bytes).unwrap(), Message::DelLink { ifindex: 5, moved: Some((7, 2)) });
}

#[test]
fn the_local_address_counts_on_a_point_to_point_link() {
    let mut payload = vec![2, 32, 0, 0];
    payload.extend(4_u32.to_ne_bytes());
    payload.extend(attribute(libc::IFA_ADDRESS, &[10, 0, 0, 2]));
    payload.extend(attribute(libc::IFA_LOCAL, &[10, 0, 0, 1]));
    assert_eq!(
        one(&message(libc::RTM_NEWADDR, 0, &payload)).unwrap(),
        Message::NewAddress { ifindex: 4, address: "10.0.0.1".parse().unwrap() }
    );
}

#[test]
fn several_messages_errors_and_ids() {
    let mut bytes = message(libc::RTM_NEWNSID, 7, &[vec![0; 4], attribute(1, &[0xff; 4])].concat());
    bytes.extend(message(2, 8, &(-libc::ENODEV).to_ne_bytes()));
    let all: Vec<_> = messages(&bytes).map(|(s, message)| (s, message.unwrap())).collect();
    assert_eq!(all, [(7, Message::Nsid(None)), (8, Message::Error(libc::ENODEV))]);
}

#[test]
fn truncation_is_an_error_not_a_panic() {
    let whole = message(libc::RTM_NEWLINK, 0, &host_veth(0));
    for length in 1..whole.len() {
        assert!(one(&whole[..length]).is_err(), "cut at {length}");
    }
    assert!(one(&message(libc::RTM_NEWLINK, 0, &[0; 8])).is_err());
}
