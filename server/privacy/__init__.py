"""What keeps shoppers' data where it may be: the secrets of pseudonyms (`secrets`), the places that hold such
data (`places`), and for operators (`commands`) erasing a shopper (`erasure`) and proving it (`scan`).
"""
