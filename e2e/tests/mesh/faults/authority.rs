//! What the certificate service refuses a node's proxy.

use crate::mesh::credentials::{Asker, Refusal};
use crate::mesh::shop::{self, CLIENT_IDENTITY, SERVER_IDENTITY};
use crate::mesh::{enter, labs};

#[test]
fn a_node_gets_no_identity_of_another_node() {
    let Some(lab) = shop::enrolled("authority") else { return };
    if !labs::can_enter("asking the certificate service") {
        return;
    }
    let asker = Asker::with_token_of(&lab, "node-1");
    enter::node(&lab, "node-1", async || {
        asker.ask(CLIENT_IDENTITY).await.unwrap();
        let refusals = [
            (SERVER_IDENTITY, "node-1"),
            ("spiffe://cluster.local/ns/shop/sa/nobody", "node-1"),
            ("spiffe://elsewhere/ns/shop/sa/client", "elsewhere"),
        ];
        for (identity, named) in refusals {
            let Refusal(message) = asker.ask(identity).await.unwrap_err();
            assert!(message.contains("PermissionDenied") && message.contains(named), "{identity}: {message}");
        }
    });
    // The same question with the token of the node that the pod is on.
    let asker = Asker::with_token_of(&lab, "node-2");
    enter::node(&lab, "node-2", async || asker.ask(SERVER_IDENTITY).await.map(drop).unwrap());
}
