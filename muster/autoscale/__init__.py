"""More replicas when ranking time is dear, fewer when it is cheap."""
