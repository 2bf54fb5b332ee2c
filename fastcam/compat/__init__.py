"""The call forms of other packages, over fastcam's methods: a script changes its import lines only."""
