//! IPv4 options, as far as they say where a packet goes.

use super::{Source, View};
use crate::abi::DropReason;

/// Most bytes of options in a header: fifteen words less the five that are always there.
const MAX_OPTIONS: usize = 40;
/// End of the list (RFC 791, 3.1).
const END: u8 = 0;
/// No operation, one byte.
const NO_OPERATION: u8 = 1;
/// Loose and strict source route (RFC 791, 3.1).
const SOURCE_ROUTES: [u8; 2] = [131, 137];

/// Refuses options that send a packet elsewhere than its destination address says, which is all
/// that policy sees; and options that are not what they say, behind which one could hide.
///
/// # Errors
///
/// [`DropReason::SourceRouted`], [`DropReason::Malformed`].
#[inline(always)]
pub(super) fn check<S: Source>(source: &S, offset: usize, length: usize) -> Result<(), DropReason> {
    let mut at = 0;
    for _ in 0..MAX_OPTIONS {
        if at >= length {
            break;
        }
        let kind = source.view::<1>(offset + at).ok_or(DropReason::Malformed)?.u8(0);
        if kind == END {
            break;
        }
        let size = if kind == NO_OPERATION { 1 } else { option(source, offset + at, kind)? };
        at = source.meet(at + size);
        if at > length {
            return Err(DropReason::Malformed);
        }
    }
    Ok(())
}

/// Length of an option with a length, which is no source route that is still to go.
#[inline(always)]
fn option<S: Source>(source: &S, offset: usize, kind: u8) -> Result<usize, DropReason> {
    let option = source.view::<2>(offset).ok_or(DropReason::Malformed)?;
    let size = usize::from(option.u8(1));
    if size < 2 {
        return Err(DropReason::Malformed);
    }
    if kind == SOURCE_ROUTES[0] || kind == SOURCE_ROUTES[1] {
        let route = source.view::<3>(offset).ok_or(DropReason::Malformed)?;
        // The pointer is beyond the route when it is used up.
        if usize::from(route.u8(2)) <= size {
            return Err(DropReason::SourceRouted);
        }
    }
    Ok(size)
}
