"""Next-item recommendation: from what shoppers did to a bundle section that says what they take next."""
