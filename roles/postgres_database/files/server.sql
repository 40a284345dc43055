-- One row: the database's owner, the schema revision that is wanted, and whether anything on the server differs from
-- what provide.yml sets.
select (select pg_get_userbyid(datdba) from pg_database where datname = %(database)s) as owner,
       (select substring(shobj_description(oid, 'pg_database') from 'revision (\w+)')
          from pg_database where datname = %(template)s) as wanted,
       not exists (
         select from pg_database d, pg_roles l
          where d.datname = %(database)s and l.rolname = %(login)s
            and l.rolcanlogin and not l.rolcreatedb and not l.rolcreaterole
            and l.rolconnlimit = %(login_connections)s
            and pg_has_role(current_user, l.oid, 'SET') and pg_has_role(current_user, l.oid, 'USAGE')
            and d.datconnlimit = %(connections)s
            and has_database_privilege(l.oid, d.oid, 'CONNECT')
            and d.datacl is not null
            and not exists (select from aclexplode(d.datacl) where grantee = 0)
       ) as differs
