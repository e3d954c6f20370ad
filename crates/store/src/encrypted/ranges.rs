//! Which bytes of a stored object to ask for, before it is known how long it is.
//!
//! Guarantees: what is asked for holds the pages that a range of the plaintext lies in, and less than a page more at either
//! end; the header too, where that is near. All of it is checked arithmetic.

use cofferdam_crypto::{HEADER_LEN, MAX_PLAINTEXT_LEN, PageSize, TAG_LEN};
use object_store::GetRange;

const HEADER: u64 = HEADER_LEN as u64;

/// How far from the header a range may begin to be read together with it, in bytes. A request costs more than that.
const NEAR: u64 = 64 << 10;

/// Just the header.
pub(super) const HEADER_ONLY: GetRange = GetRange::Bounded(0..HEADER);

/// The stored bytes for a range of the plaintext. A bounded range is not empty and not reversed.
pub(super) fn stored(range: &GetRange, page: PageSize) -> GetRange {
    let size = page.bytes() as u64;
    match range {
        GetRange::Bounded(range) => {
            let start = range.start.min(MAX_PLAINTEXT_LEN);
            let end = range.end.clamp(start + 1, MAX_PLAINTEXT_LEN + 1);
            GetRange::Bounded(near(page_start(start / size, page))..page_start((end - 1) / size + 1, page))
        }
        GetRange::Offset(start) => {
            GetRange::Offset(near(page_start((*start).min(MAX_PLAINTEXT_LEN) / size, page)))
        }
        GetRange::Suffix(0) => HEADER_ONLY,
        GetRange::Suffix(len) => {
            let len = (*len).min(MAX_PLAINTEXT_LEN);
            let tags = (len / size + 2) * TAG_LEN as u64;
            GetRange::Suffix(HEADER + len + size - 1 + tags)
        }
    }
}

/// Where a page begins in the stored object.
fn page_start(number: u64, page: PageSize) -> u64 {
    HEADER + number * (page.bytes() + TAG_LEN) as u64
}

fn near(start: u64) -> u64 {
    if start <= HEADER + NEAR { 0 } else { start }
}

#[cfg(test)]
mod tests {
    use cofferdam_crypto::{PageSpan, sealed_len};

    use super::*;

    /// What a store gives for this.
    fn given(range: &GetRange, len: u64) -> std::ops::Range<u64> {
        range.as_range(len).unwrap()
    }

    #[test]
    fn what_is_asked_for_holds_the_pages_and_less_than_a_page_more() {
        let page = PageSize::MIN;
        for len in [1, 4095, 4096, 4097, 8192, 20_000, 100_000, 300_001] {
            let stored_len = sealed_len(len, page).unwrap();
            let edges = [0, 1, 4095, 4096, 4097, 8191, 8192, 65_536, 69_632, 69_633, 99_999, 300_000];
            for start in edges.into_iter().filter(|start| *start < len) {
                let ends = edges.into_iter().map(|end| end + 1).filter(|end| *end > start);
                let bounded = ends.map(|end| GetRange::Bounded(start..end));
                for range in bounded.chain([GetRange::Offset(start), GetRange::Suffix(len - start)]) {
                    let plain = range.as_range(len).unwrap();
                    let span = PageSpan::locate(stored_len, page, plain).unwrap().bytes();
                    let given = given(&stored(&range, page), stored_len);
                    let what = format!("{range} of {len}: {given:?} for {span:?}");
                    assert!(given.start <= span.start && given.end >= span.end, "{what}");
                    let before = span.start - given.start;
                    assert!(before <= NEAR + HEADER + 4112, "{what}");
                    assert!(
                        given.start == 0 || span.start > HEADER + NEAR || before < 4112 + 32 + HEADER,
                        "{what}"
                    );
                    assert_eq!(given.end, span.end, "{what}");
                }
            }
        }
    }

    #[test]
    fn ranges_that_no_object_has_ask_for_what_no_store_has() {
        for page in [PageSize::MIN, PageSize::DEFAULT, PageSize::MAX] {
            let longest = sealed_len(MAX_PLAINTEXT_LEN, page).unwrap();
            for range in [GetRange::Bounded(u64::MAX - 1..u64::MAX), GetRange::Offset(u64::MAX)] {
                assert!(stored(&range, page).as_range(longest).is_err(), "{range}");
            }
            let all = stored(&GetRange::Suffix(u64::MAX), page).as_range(longest).unwrap();
            assert_eq!(all, 0..longest);
        }
    }
}
