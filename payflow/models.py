"""The kernel has no tables; Django tells only apps with a models module of a migrate."""
