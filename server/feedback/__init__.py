"""Feedback: what a shopper did, into the log (`recording`, `receipts`) and out of it (`export`)."""
