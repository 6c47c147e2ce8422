"""The two HTTP listeners: messenger API and operator API. They never share a port; openapi.yaml is the contract of both."""
