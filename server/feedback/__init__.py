"""Feedback: what a shopper did, on its way into the log (`recording`, `receipts`) and out of it (`export`)."""
