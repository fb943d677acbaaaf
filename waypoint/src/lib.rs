//! L7 proxy of the mesh, per namespace or per service account: routing, retries and policy on requests. Nothing of it exists yet.
