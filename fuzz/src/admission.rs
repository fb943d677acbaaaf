//! Whatever question of an API server: it is answered to its own uid or refused, and an object in it is taken in or reported.

use fairway_core::source::Loaded;
use fairway_core::source::admission::Review;

/// The body of a request to the webhook.
pub fn run(data: &[u8]) {
    let Ok(review) = Review::read(data) else { return };
    for answer in [review.allow(&[]), review.refuse("no")] {
        assert_eq!(answer.pointer("/response/uid").and_then(|uid| uid.as_str()), Some(review.uid.as_str()));
    }
    let Some((key, object)) = &review.object else { return };
    let loaded = Loaded::default().with(key, object);
    let is_reported = loaded.errors.iter().any(|error| error.object.as_ref() == Some(key));
    assert_eq!(loaded.objects.has(key), !is_reported, "an object is there, or what is wrong with it");
    assert_eq!(loaded.rejected.contains_key(key), is_reported);
}
